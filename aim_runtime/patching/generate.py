"""``generate`` where a schedule reduces the prompt: the caller's own prompt goes through it.

transformers counts, searches and shows the prompt that the caller passed; the forward shortens it.
So processors, criteria, limits and streamers see what they see without a patch, and
``output[:, input_ids.shape[1]:]`` are the new tokens.
"""

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from aim_runtime.errors import PatchError
from aim_runtime.models.adapter import Adapter
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.part import Part
from aim_runtime.patching.drafts import after_the_prompt
from aim_runtime.patching.position_keeping import PositionKeeping
from aim_runtime.patching.prompt_shortening import PromptShortening
from aim_runtime.patching.undo import Changes
from aim_runtime.prompts.cache_checks import cached_tokens
from aim_runtime.seams import ids_in, with_new_names

_REFUSED = {
    "prefill_chunk_size": "none: a schedule sees whole prompts",
    "assistant_early_exit": "none: the first layers alone would run another schedule (an "
    "assistant_model and prompt lookup work)",
    "is_assistant": "another model that assists: one that runs a schedule reads each prompt anew",
}


_CACHES = (None, "dynamic", "offloaded", "hybrid")
"""Values of ``cache_implementation`` that make a DynamicCache of models like these."""


class Generation:
    """Refuses what would choose other tokens later, and goes on from cached prompts.

    Args:
        adapter: of a vision-language model, with ``prompts``; None for a bare language model.
        prunes: whether tokens leave in the decoder.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        positions: PositionKeeping,
        adapter: Adapter | None,
        prompts: PromptShortening | None,
        *,
        prunes: bool,
    ) -> None:
        self._model: Part = model
        self._positions, self._prompts, self._prunes = positions, prompts, prunes
        self._placeholders: tuple[int, ...] = ()
        self._pixels: tuple[str, ...] = ()
        if adapter is not None:
            self._placeholders = tuple(adapter.placeholders.values())
            self._pixels = tuple(n for names in adapter.pixel_inputs.values() for n in names)

    def attach(self, changes: Changes) -> None:
        """Change ``generate`` and what it calls before each forward."""
        model = self._model
        changes.replace(model, "generate", self._checked(model.generate))
        prepare = self._going_on(model.prepare_inputs_for_generation)
        changes.replace(model, "prepare_inputs_for_generation", prepare)
        lookup = after_the_prompt(model._get_candidate_generator, self._placeholders)
        changes.replace(model, "_get_candidate_generator", lookup)

    def _checked(self, own: Callable[..., Any]) -> Callable[..., Any]:
        names = tuple(inspect.signature(own).parameters)

        @wraps(own)
        def generate(*args: Any, **kwargs: Any) -> Any:
            given = with_new_names(kwargs | dict(zip(names, args, strict=False)))
            self._check(given)
            if cached_tokens(given):
                given = self._positions.go_on(given)
                given = {name: given[name] for name in given if name not in self._pixels}
            elif self._prompts is not None:
                ids = ids_in(given)
                if ids is not None and given.get("inputs_embeds") is None:
                    self._prompts.check(given | {"input_ids": ids})
            with nullcontext() if self._prompts is None else self._prompts.encoding_ahead():
                return own(**given)

        return generate

    def _check(self, given: Inputs) -> None:
        """Raises: PatchError that names an argument."""
        for name, expected in _REFUSED.items():
            got = self._setting(given, name)
            if got:
                raise PatchError(name, expected=expected, got=got, fix="Leave it out.")
        cache = self._setting(given, "cache_implementation")
        if cache not in _CACHES:
            raise PatchError(
                "cache_implementation",
                expected="dynamic or offloaded: layers of a DynamicCache may differ in length",
                got=cache,
                fix="Leave it out.",
            )
        if (
            self._prunes
            and given.get("inputs_embeds") is None  # which transformers decodes with a cache
            and self._setting(given, "use_cache") is False
        ):
            raise PatchError(
                "use_cache",
                expected="True: who leaves is decided once, in the prefill, not at each new token",
                got=False,
                fix="Leave use_cache on.",
            )

    def _setting(self, given: Inputs, name: str) -> Any:
        """An argument of ``generate``, or what it takes from configs where it is left out."""
        if name in given:
            return given[name]
        configs: tuple[GenerationConfig | None, ...] = (
            given.get("generation_config"),
            self._model.generation_config,
        )
        found = (getattr(config, name, None) for config in configs)
        return next((value for value in found if value is not None), None)

    def _going_on(self, own: Callable[..., Inputs]) -> Callable[..., Inputs]:
        """``prepare_inputs_for_generation``, told which tokens of a conversation are new.

        transformers takes those that the cache does not count; merging shortened what it counts.
        """

        @wraps(own)
        def prepare(
            input_ids: Tensor, next_sequence_length: int | None = None, **kwargs: Any
        ) -> Inputs:
            if next_sequence_length is not None and kwargs.get("is_first_iteration"):
                next_sequence_length -= self._positions.lost_columns(kwargs)
                if next_sequence_length <= 0:
                    raise PatchError(
                        "input_ids",
                        expected="the whole conversation, longer than what is cached",
                        got=f"{input_ids.shape[1]} tokens",
                        fix="Pass the conversation so far and the new text.",
                    )
            return own(input_ids, next_sequence_length=next_sequence_length, **kwargs)

        return prepare


def refuse_batching(model: PreTrainedModel, changes: Changes) -> None:
    """Refuse continuous batching, which knows neither layers of several lengths nor hooks."""

    def refused(*args: Any, **kwargs: Any) -> Any:
        raise PatchError(
            "cache_implementation",
            expected="dynamic or offloaded in a patched model",
            got="continuous batching",
            fix="Use model.generate, with prompts padded on the left.",
        )

    changes.replace(model, "init_continuous_batching", refused)
