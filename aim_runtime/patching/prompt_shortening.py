"""PromptShortening: cuts placeholders to what is left, and merges or selects what goes there."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

from torch import Tensor

from aim_cost.errors import AimError
from aim_cost.schedules.schedule import Schedule
from aim_runtime.errors import PatchError
from aim_runtime.models.adapter import Adapter
from aim_runtime.models.compiled import uncompiled
from aim_runtime.models.inputs import Inputs
from aim_runtime.patching.current import Current
from aim_runtime.patching.encoding import Encodes, Encoding
from aim_runtime.patching.position_keeping import PositionKeeping
from aim_runtime.patching.tower_reading import tower_reading
from aim_runtime.patching.undo import Changes
from aim_runtime.prompts.cache_checks import cached_tokens
from aim_runtime.prompts.encoded import Encoded, Items
from aim_runtime.prompts.entering import Entering
from aim_runtime.prompts.layout import Layout, Shortened
from aim_runtime.prompts.prompt import Prompt, undescribed_embeddings
from aim_runtime.recorder import Recorder
from aim_runtime.seams import named


@dataclass(frozen=True)
class NewIds:
    """Tokens on their way to the decoder after a cached prompt: ids[B, n], None for embeddings."""

    ids: Tensor | None


class PromptShortening:
    """Shortens the prompts of a vision-language model in its forward.

    Args:
        reduces: whether the schedule does anything; if not, prompts are only described, and one
            that cannot be is no error.
        takes_ids: whether prompts come as ids; else as embeddings, which are not shortened.
    """

    def __init__(
        self,
        adapter: Adapter,
        schedule: Schedule,
        positions: PositionKeeping,
        recorder: Recorder,
        *,
        reduces: bool,
        takes_ids: bool,
    ) -> None:
        self._inner, self._pixel_inputs = adapter.inner, adapter.pixel_inputs
        self._positions, self._reduces, self._takes_ids = positions, reduces, takes_ids
        self._tower = tower = tower_reading(adapter, schedule)
        self._layout = Layout(adapter, schedule)
        self._ahead: Current[bool] = Current()
        busy: Current[Encodes] = Current()
        self._encodings = {
            name: Encoding(
                *(schedule, recorder, adapter, name, tower, busy),
                ahead=self._ahead,
                strict=reduces,
            )
            for name in adapter.pixel_inputs
        }
        self._entering: Current[Entering | NewIds | AimError] = Current()

    def attach(self, changes: Changes) -> None:
        """Change the forward of the vision-language model, and its encoders."""
        inner = self._inner
        changes.replace(inner, "forward", self._shortened(inner.forward))
        if self._tower is not None:
            self._tower.attach(changes)
        for modality, encoding in self._encodings.items():
            name = f"get_{modality}_features"
            encode = encoding.around(getattr(inner, name), self._encoding_for)
            encode = uncompiled(encode, recursive=False)
            changes.replace(inner, name, encode)

    def take(self) -> Entering | NewIds | None:
        """What enters the decoder now; None for a prompt whose ids were not seen.

        Raises: AimError for a prompt that could not be described.
        """
        entering = self._entering.take()
        if isinstance(entering, AimError):
            raise entering
        return entering

    def encoding_ahead(self) -> AbstractContextManager[None]:
        """Inside it, what is encoded outside a forward is for a prompt that follows."""
        return self._ahead.during(True)

    def check(self, inputs: Inputs) -> None:
        """Raises: AimError for prompts that the forward would refuse, before they are encoded."""
        if inputs.get("mm_encoder_outputs") is None:
            self._require_ids()
            if self._layout.undecided(inputs, {}) is None:
                self._laid_out(inputs, {}, {})

    def visual_mask(self, ids: Tensor) -> Tensor:
        """Where ids[B, n] are placeholders: bool [B, n], on the host."""
        return self._layout.visual_mask(ids)

    def _encoding_for(self) -> Entering | None:
        """The prompt that enters; None without one."""
        entering = self._entering.value
        return entering if isinstance(entering, Entering) else None

    def _shortened(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """The forward of the vision-language model, from the caller's prompt."""
        prepare = uncompiled(self._prepared if self._reduces else self._described)

        # what the wrapped function says of itself, that it is compiled too, is not true of this one
        @wraps(own, updated=())
        def forward(*args: Any, **kwargs: Any) -> Any:
            entering, inputs = prepare(named(self._inner, args, kwargs))
            with self._entering.during(entering):
                return own(**inputs)

        return uncompiled(forward, recursive=False)

    def _described(self, inputs: Inputs) -> tuple[Entering | NewIds | AimError | None, Inputs]:
        """``_prepared``, of a schedule that reduces nothing: the inputs are the caller's."""
        try:
            return self._prepared(inputs)[0], inputs
        except AimError as error:
            return error, inputs

    def _laid_out(
        self, inputs: Inputs, known: dict[str, Items], encoded: Mapping[str, Encoded]
    ) -> Shortened:
        short = self._layout.prepare(inputs, known, encoded)
        self._positions.check(inputs, short.prompt)
        return short

    def _require_ids(self) -> None:
        if not self._takes_ids:
            raise PatchError(
                "visual_mask",
                expected="inputs_embeds, which it describes",
                got="input_ids",
                fix="Patch without visual_mask: placeholders are found in input_ids.",
            )

    def _encoded_ahead(self, inputs: Inputs, whole: Prompt) -> Entering:
        """Encode the images and videos of ``whole``, of which a schedule chooses by their features.

        Raises: AimError.
        """
        entering = Entering(whole, {}, None)
        with self._entering.during(entering):
            for modality, names in self._pixel_inputs.items():
                if inputs.get(names[0]) is not None:
                    encode = getattr(self._inner, f"get_{modality}_features")
                    given = [inputs.get(name) for name in names]
                    entering.made[modality] = encode(*given, return_dict=True)
        return entering

    def _prepared(self, inputs: Inputs) -> tuple[Entering | NewIds | None, Inputs]:
        """What is about to enter the decoder, None for embeddings; and the inputs.

        Raises: PatchError.
        """
        ids = inputs.get("input_ids")
        if cached_tokens(inputs):
            tokens = (inputs["inputs_embeds"] if ids is None else ids).shape[1]
            if ids is not None and tokens > 1 and bool(self.visual_mask(ids).any()):
                raise PatchError(
                    "input_ids",
                    expected="text alone after a cached prompt",
                    got="images or videos",
                    fix="Start a new cache for new images and videos.",
                )
            return NewIds(ids), self._positions.of_new_tokens(inputs, tokens)
        if ids is None and self._takes_ids:
            raise undescribed_embeddings()  # before the model looks for placeholders in them
        if ids is None:
            return None, inputs
        ready = {
            modality: output
            for modality, output in (inputs.get("mm_encoder_outputs") or {}).items()
            if output is not None
        }
        known = {name: self._encodings[name].items_of(output) for name, output in ready.items()}
        self._require_ids()
        whole = self._layout.undecided(inputs, known)
        if whole is None:
            short = self._laid_out(inputs, known, {})
            entering = Entering(replace(short.prompt, ids=ids), {}, None)
            self._reduce_ready(ready, known, entering)
        else:
            entering = self._encoded_ahead(inputs, replace(whole, ids=ids))
            self._reduce_ready(ready, known, entering)
            short = self._laid_out(inputs, known, entering.encoded)
        inputs, table = self._positions.of_prompt(inputs, short)
        entering = replace(entering, prompt=replace(short.prompt, ids=ids), positions=table)
        return entering, inputs | ({"mm_encoder_outputs": ready} if ready else {})

    def _reduce_ready(
        self, ready: dict[str, Any], known: dict[str, Items], entering: Entering
    ) -> None:
        """Reduce the features that ``generate`` has made ahead, in ``ready``."""
        for name, output in ready.items():
            reduced = self._encodings[name].reduce_ready(output, known[name], entering.prompt)
            ready[name], entering.encoded[name] = reduced
