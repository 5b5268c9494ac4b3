"""``generate`` for prompts that merging shortens: the caller sees the prompt they passed."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin

from aim_runtime.errors import PatchError
from aim_runtime.models.inputs import Inputs
from aim_runtime.seams import with_new_names

_ASSISTED = ("assistant_model", "assistant_early_exit")


def with_own_prompt(
    model: GenerationMixin, shorten: Callable[[Inputs], Inputs], forget: Callable[[], None]
) -> Callable[..., Any]:
    """Wrap ``model.generate``: shorten the prompt, run, put the caller's prompt back in front.

    So ``output[:, input_ids.shape[1]:]`` are the new tokens, as without the patch. ``forget`` ends
    each run, a failed one too.
    Raises: PatchError for limits that count the prompt, for assistant models, and for generation
    without a cache, each given as an argument or in a generation config.
    """
    generate = model.generate
    names = tuple(inspect.signature(generate).parameters)

    @wraps(generate)
    def generate_from_own_prompt(inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        kwargs = with_new_names(kwargs | dict(zip(names[1:], args, strict=False)))
        config = kwargs.get("generation_config") or model.generation_config
        _refuse_assisted(kwargs, config)
        own = inputs if inputs is not None else kwargs.pop("input_ids", None)
        if own is None:
            return generate(None, **kwargs)
        _check(kwargs, config)
        shortened = shorten(kwargs | {"input_ids": own})
        prompt = shortened.pop("input_ids")
        try:
            output = generate(prompt, **shortened)
        finally:
            forget()
        new = (output if isinstance(output, Tensor) else output.sequences)[:, prompt.shape[1] :]
        # several sequences of one prompt are neighbours
        repeated = own.repeat_interleave(new.shape[0] // own.shape[0], dim=0)
        sequences = torch.cat([repeated, new], dim=1)
        if isinstance(output, Tensor):
            return sequences
        output.sequences = sequences
        return output

    return generate_from_own_prompt


def _refuse_assisted(kwargs: Inputs, config: GenerationConfig) -> None:
    for way in _ASSISTED:
        given = kwargs.get(way, getattr(config, way, None))
        if given is not None:
            raise PatchError(
                way,
                expected="no assistant: it would get the shortened prompt, whose pixels it does "
                "not merge",
                got=given if isinstance(given, int) else type(given).__name__,
                fix="Leave it out; greedy search, sampling, beam search and prompt lookup work.",
            )


def _check(kwargs: Inputs, config: GenerationConfig) -> None:
    for limit in ("max_length", "min_length"):
        given = kwargs.get(limit, getattr(config, limit, None))
        if given is not None:
            raise PatchError(
                limit,
                expected="a limit on new tokens: merging shortens the prompt that it would count",
                got=given,
                fix=f"Use {limit.replace('length', 'new_tokens')}.",
            )
    if kwargs.get("use_cache", getattr(config, "use_cache", None)) is False:
        raise PatchError(
            "use_cache",
            expected="True: what a layer keeps is decided once, in the prefill",
            got=False,
            fix="Leave use_cache on.",
        )
