"""PromptShortening: cuts placeholders to what merging leaves, and merges what goes there."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from transformers import PreTrainedModel

from aim_cost.schedules.merge import Merge
from aim_runtime.errors import PatchError
from aim_runtime.models.adapter import Adapter
from aim_runtime.models.compiled import uncompiled
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.part import Part
from aim_runtime.patching.current import Current
from aim_runtime.patching.encoding import Encoding
from aim_runtime.patching.generate import with_own_prompt
from aim_runtime.patching.position_keeping import PositionKeeping
from aim_runtime.patching.prompt_lookup import behind_the_prompt
from aim_runtime.patching.undo import Changes
from aim_runtime.prompts.cached import cached_tokens, require_empty_cache
from aim_runtime.prompts.encoded import Encoded
from aim_runtime.prompts.layout import Layout
from aim_runtime.prompts.prompt import Prompt
from aim_runtime.recorder import Recorder
from aim_runtime.seams import named


@dataclass(frozen=True)
class Entering:
    """A prompt on its way from the ids to the decoder.

    Args: ready, of each modality the features that the caller gave.
    """

    prompt: Prompt
    ready: Inputs


class PromptShortening:
    """Shortens the prompts of a vision-language model, in ``generate`` and in its forward.

    Args: takes_ids, whether prompts come as ids; else as embeddings, which are not shortened.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        adapter: Adapter,
        merge: Merge | None,
        positions: PositionKeeping,
        recorder: Recorder,
        *,
        takes_ids: bool,
    ) -> None:
        self._model: Part = model
        self._inner = adapter.inner
        self._placeholders = adapter.placeholders.values()
        self._positions, self._takes_ids = positions, takes_ids
        self._layout = Layout(adapter, merge)
        self._encodings = {
            name: Encoding(merge, recorder, adapter, name, keeps_places=positions.needs_places)
            for name in adapter.pixel_inputs
        }
        self._entering: Current[Entering] = Current()

    def attach(self, changes: Changes) -> None:
        """Change ``generate``, the forward of the vision-language model, and its encoders."""
        model, inner = self._model, self._inner
        generate = with_own_prompt(model, self._of_generation, self._positions.forget)
        changes.replace(model, "generate", generate)
        lookup = behind_the_prompt(model._get_candidate_generator, self._placeholders)
        changes.replace(model, "_get_candidate_generator", lookup)
        changes.replace(inner, "forward", self._shortened(inner.forward))
        for modality, encoding in self._encodings.items():
            name = f"get_{modality}_features"
            encode = uncompiled(encoding.behind(getattr(inner, name)), recursive=False)
            changes.replace(inner, name, encode)

    def take(self) -> Entering | None:
        """The prompt that enters the decoder now; None where ids were not seen."""
        return self._entering.take()

    def encoded(self, entering: Entering, prompt: Prompt) -> dict[str, Encoded]:
        """What was encoded for each modality of ``prompt``. Raises: PatchError."""
        last = self._last_encoded()
        for modality, features in entering.ready.items():
            if features is not None and self._positions.needs_places:
                last[modality].require(features.pooler_output, prompt.numbers(modality))
        placed = {one.modality for row in prompt.placed for one in row}
        return {modality: last[modality] for modality in placed}

    def _of_generation(self, inputs: Inputs) -> Inputs:
        """The inputs of ``generate``, with the prompt as the LLM will see it."""
        if cached_tokens(inputs):
            earlier = self._positions.follow_up(inputs)
            short = self._layout.prepare_follow_up(inputs, earlier)
        else:
            short = self._layout.prepare(inputs)
            self._positions.expect(short.prompt, inputs)
        return self._positions.of_generation(short)

    def _shortened(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """The forward of the vision-language model, from the caller's prompt."""
        prepare = uncompiled(self._prepared)

        # what the wrapped function says of itself, that it is compiled too, is not true of this one
        @wraps(own, updated=())
        def forward(*args: Any, **kwargs: Any) -> Any:
            entering, inputs = prepare(named(self._inner, args, kwargs))
            with self._entering.during(entering):
                return own(**inputs)

        return uncompiled(forward, recursive=False)

    def _prepared(self, inputs: Inputs) -> tuple[Entering | None, Inputs]:
        """The prompt that is about to enter the decoder, None after a cached one; and the inputs.

        Raises: PatchError.
        """
        if inputs.get("input_ids") is None:
            return None, inputs
        if cached_tokens(inputs):
            several = inputs["input_ids"].shape[1] > 1
            if several and self._layout.has_visual_tokens(inputs):
                require_empty_cache(inputs)
            return None, self._positions.of_new_ids(inputs)
        if not self._takes_ids:
            raise PatchError(
                "visual_mask",
                expected="inputs_embeds, which it describes",
                got="input_ids",
                fix="Patch without visual_mask: placeholders are found in input_ids.",
            )
        short = self._layout.prepare(inputs, self._last_encoded())
        if inputs.get("position_ids") is None:
            self._positions.expect(short.prompt, inputs)
        return Entering(short.prompt, dict(inputs.get("mm_encoder_outputs") or {})), short.inputs

    def _last_encoded(self) -> dict[str, Encoded]:
        last = {modality: encoding.last for modality, encoding in self._encodings.items()}
        return {modality: encoded for modality, encoded in last.items() if encoded is not None}
