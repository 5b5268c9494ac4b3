"""CallerLogits: the logits and the loss of a prompt that a schedule has reduced."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from aim_runtime.errors import PatchError
from aim_runtime.models.compiled import uncompiled
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.part import Part
from aim_runtime.patching.current import Current
from aim_runtime.patching.prompt_shortening import PromptShortening
from aim_runtime.patching.undo import Changes
from aim_runtime.prompts.cache_checks import cached_tokens
from aim_runtime.prompts.prompt import Prompt
from aim_runtime.seams import named

_IGNORED = -100  # the label of tokens that no loss counts, in torch and transformers


@dataclass
class Left:
    """The places in the caller's prompt of the tokens that are left after the decoder.

    Args:
        tokens: N, of the caller's prompt.
        places: int64 [B, n], -1 where nothing is predicted; None before the decoder has run, and
            where it ran no prefill.
    """

    tokens: int
    places: Tensor | None = None


class CallerLogits:
    """Takes ``logits_to_keep`` and ``labels`` as the caller means them, of their own prompt.

    Args:
        prompts: of a vision-language model; None for a bare language model.
        embedded: the prompt that ``inputs_embeds`` hold, if the caller described one.
    """

    def __init__(
        self, model: PreTrainedModel, prompts: PromptShortening | None, embedded: Prompt | None
    ) -> None:
        self._model: Part = model
        self._prompts, self._embedded = prompts, embedded
        self._left: Current[Left] = Current()

    def attach(self, changes: Changes) -> None:
        """Change the forward of the model, and its loss."""
        model = self._model
        changes.replace(model, "_loss_function", self._of_those_left(model.loss_function))
        changes.replace(model, "forward", self._asked(model.forward))

    def leave(self, places: Tensor) -> None:
        """The decoder has run a prefill, and these are left; see ``Left``."""
        if self._left.value is not None:
            self._left.value.places = places

    def _asked(self, own: Callable[..., Any]) -> Callable[..., Any]:
        checked = uncompiled(self._checked)

        @wraps(own, updated=())
        def forward(*args: Any, **kwargs: Any) -> Any:
            inputs, left = checked(named(self._model, args, kwargs))
            with self._left.during(left):
                return own(**inputs)

        return uncompiled(forward, recursive=False)

    def _checked(self, inputs: Inputs) -> tuple[Inputs, Left | None]:
        """The inputs of a call in terms of what will be left. Raises: PatchError."""
        if cached_tokens(inputs):
            return inputs, None
        keep, labels = inputs.get("logits_to_keep", 0), inputs.get("labels")
        counts_from_end = isinstance(keep, int) and keep in (0, 1)
        if counts_from_end and labels is None:
            return inputs, None
        visual = self._visual_of(inputs)
        if visual is None or not bool(visual.any()):
            return inputs, None
        if not counts_from_end:
            inputs = inputs | {"logits_to_keep": _kept_from_end(keep, visual)}
        if labels is not None:
            _check_labels(inputs, labels, visual)
        return inputs, Left(visual.shape[1])

    def _visual_of(self, inputs: Inputs) -> Tensor | None:
        """The mask [B, N] of visual tokens of a prompt, on the host; None where none is known."""
        if self._embedded is not None:
            x = inputs.get("input_ids")
            x = inputs["inputs_embeds"] if x is None else x
            return self._embedded.expand(len(x)).visual_mask
        ids = inputs.get("input_ids")
        return None if self._prompts is None or ids is None else self._prompts.visual_mask(ids)

    def _of_those_left(self, own: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @wraps(own)
        def loss(logits: Tensor, labels: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            left = self._left.value
            if left is not None and left.places is not None and labels.shape[-1] == left.tokens:
                places = left.places.to(labels.device)
                labels = labels.gather(1, places.clamp(min=0)).masked_fill(places < 0, _IGNORED)
            return own(logits, labels, *args, **kwargs)

        return loss


def _kept_from_end(keep: int | Tensor, visual: Tensor) -> int | Tensor:
    """``logits_to_keep`` that names the same text after visual tokens have left.

    Text after the last visual token of a row has the same distance to the end.
    Raises: PatchError for other places.
    """
    tokens = visual.shape[1]
    after = tokens - 1 - int(visual.any(dim=0).nonzero().max())
    if isinstance(keep, int):
        if keep <= after:
            return keep
        got: Any = keep
    else:
        if keep.dtype == torch.bool or keep.dim() != 1:
            got = f"{keep.dtype} {list(keep.shape)}"
        else:
            places = torch.where(keep < 0, keep, keep - tokens)
            if not bool((places < -after).any()):
                return places
            got = keep.tolist()
    raise PatchError(
        "logits_to_keep",
        expected=f"0, or a number or list of places among the {after} tokens after the last visual "
        "one: others may leave",
        got=got,
        fix="Leave it out, and find the tokens that are left in trace.kept[-1].",
    )


def _check_labels(inputs: Inputs, labels: Tensor, visual: Tensor) -> None:
    """Raises: PatchError where the loss over the tokens that are left would be another one."""
    if inputs.get("shift_labels") is not None:
        raise PatchError(
            "shift_labels",
            expected="none: the token before a label may leave",
            got=f"labels {list(inputs['shift_labels'].shape)}",
            fix="Give labels alone, which are shifted when it is known who is left.",
        )
    if labels.shape != visual.shape:
        return
    mask = inputs.get("attention_mask")
    without = {"visual tokens, which may leave": visual}
    if isinstance(mask, Tensor) and mask.shape == visual.shape:
        without["padding"] = mask.cpu() == 0
    for name, places in without.items():
        wrong = int(((labels.cpu() != _IGNORED) & places).sum())
        if wrong:
            raise PatchError(
                "labels",
                expected=f"{_IGNORED} at {name}",
                got=f"{wrong} other labels there",
                fix=f"Set them to {_IGNORED}: the loss is that of text.",
            )
