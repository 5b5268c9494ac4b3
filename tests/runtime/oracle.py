"""An unpatched model whose forward is the mask-based reference: what ``generate`` should do.

``generate`` of transformers runs on it with the caller's own prompt, unchanged. So whatever looks
at a prompt, a limit, a processor, a criterion, looks at the caller's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from aim_cost import Schedule
from aim_cost.models.workload import VisualInput
from aim_runtime.reference import Reference
from tests.runtime.reference import embedded_video
from tests.runtime.support import FRAME_TOKENS

Next = Callable[[Tensor], Tensor]
"""Logits [V] of the token after a prompt and the new tokens [n] after it."""


@contextmanager
def answering(model: PreTrainedModel, prompt_tokens: int, rows: Sequence[Next]) -> Iterator[None]:
    """Let ``model`` answer the prompts of a batch, one of ``rows`` each, and text as it does.

    Several sequences of a prompt are neighbours. Each step starts from the prompt: no cache.
    """
    stock = model.forward
    placeholders = [
        getattr(model.config, name)
        for name in ("image_token_id", "video_token_id")
        if hasattr(model.config, name)
    ]

    @wraps(stock)
    def forward(
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> Any:
        if not bool(torch.isin(input_ids, torch.tensor(placeholders)).any()):
            return stock(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        copies = len(input_ids) // len(rows)
        logits = [
            rows[number // copies](ids[prompt_tokens:]) for number, ids in enumerate(input_ids)
        ]
        return CausalLMOutputWithPast(logits=torch.stack(logits)[:, None])

    model.forward, before = forward, model.generation_config.use_cache
    model.generation_config.use_cache = False
    try:
        yield
    finally:
        del model.forward
        model.generation_config.use_cache = before


def video_rows(
    llava: LlavaOnevisionForConditionalGeneration, inputs: dict[str, Tensor], schedule: Schedule
) -> list[Next]:
    """The prompts of ``video_inputs()`` for ``answering``, by the reference under ``schedule``."""
    frames, tokens = inputs["pixel_values_videos"].shape[1], inputs["input_ids"].shape[1]
    visual = VisualInput(groups=frames, group_tokens=FRAME_TOKENS, newline_tokens=1)
    text = tokens - frames * FRAME_TOKENS - 1
    decoder = llava.model.language_model
    trace = schedule.resolve_visual(visual, text_tokens=text, layers=len(decoder.layers))
    reference = Reference(decoder, llava.lm_head)
    moves = schedule.merge is not None and schedule.merge.positions == "kept"
    rows: list[Next] = []
    for embeds, mask, places in zip(
        *embedded_video(llava, inputs, trace.merge_tokens), strict=True
    ):
        positions = places if moves else torch.arange(len(places))
        kept = reference.kept(embeds, mask, trace, positions=positions)
        assert reference.smallest_margin > 1e-3, "choose another seed"

        def after(new: Tensor, x=embeds, kept=kept, positions=positions) -> Tensor:
            count = len(new)
            x = torch.cat([x, llava.get_input_embeddings()(new)])
            masks = [torch.cat([mask, mask.new_ones(count)]) for mask in kept]
            more = positions[-1] + 1 + torch.arange(count)
            return reference.logits(x, masks, positions=torch.cat([positions, more]))[-1]

        rows.append(after)
    return rows
