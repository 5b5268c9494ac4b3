"""Adapter: the names of a model's parts in transformers, and how the model reads pixels."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from aim_cost.models.model import ModelSpec
from aim_runtime.errors import PatchError
from aim_runtime.models.compiled import unwrapped
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.part import Part
from aim_runtime.models.visual import VisualItem

Items = tuple[VisualItem, ...]

_CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}
"""The tokens of a tower that are no patches, by its model_type."""

_VISION_PARTS = (
    ("vision_tower.forward", "vision.tower"),
    ("visual.forward", "vision.tower"),
    ("multi_modal_projector.forward", "vision.projector"),
    ("visual.merger.forward", "vision.projector"),
    ("visual.deepstack_merger_list.forward", "vision.projector"),
    ("apply_pooling", "vision.pooling"),
    ("vision_resampler.forward", "vision.pooling"),
)
"""The names of the parts between pixels and visual tokens, and the cost model's phase of each."""


def config_class(kind: type[PreTrainedModel]) -> type[PreTrainedConfig]:
    """The class of the configs of ``kind``. Raises: TypeError for a class without one."""
    found = kind.config_class
    if found is None:
        raise TypeError(f"{kind.__name__} has no class of configs")
    return found


class Adapter(ABC):
    """Args: model, one of ``kinds``, with its parts in ``model.model`` as all of them have it.

    ``get_image_features`` and ``get_video_features`` of that part return one entry an item: a
    tensor [items, tokens, hidden], or a list of [tokens, hidden] or of [frames, tokens, hidden].
    """

    kinds: ClassVar[tuple[type[PreTrainedModel], ...]]
    has_axes: ClassVar[bool] = False
    """Whether positions have three axes, which ``get_rope_index`` of the inner model computes."""
    frames_apart: ClassVar[bool] = False
    """Whether text, a timestamp, stands between the groups of a video."""
    pixel_inputs: ClassVar[dict[str, tuple[str, ...]]]
    """The inputs of each modality: the one that holds its pixels, then those that describe them."""
    smallest: ClassVar[Mapping[str, dict[str, Any]]]
    """The config fields of a tiny model, by model_type; for quick checks of ``kinds``."""

    def __init__(self, model: PreTrainedModel) -> None:
        whole: Part = model
        self.config = model.config
        self.inner: Part = unwrapped(whole.model)

    @property
    def decoder(self) -> Part:
        """The language model, without its head."""
        return unwrapped(self.inner.language_model)

    @property
    def tower(self) -> Part:
        """The vision encoder."""
        return unwrapped(getattr(self.inner, "vision_tower", None) or self.inner.visual)

    @cached_property
    def geometry(self) -> ModelSpec:
        """How pixels become tokens, whichever LLM reads them: the dimensions of another are in it.

        Raises: SpecError.
        """
        own = {**self.config.to_dict(), "text_config": None, "quantization_config": None}
        # which layer is read, and what pools, changes no number of tokens
        own |= {"vision_feature_layer": -1, "spatial_pool_mode": "average"}
        return ModelSpec.from_hf_config(own, name=type(self.config).__name__)

    def check(self) -> None:
        """Check what the adapter relies on, before anything is patched.

        Raises: PatchError, SpecError for a config whose prompts it could not read.
        """
        for name, token in self.placeholders.items():
            if not isinstance(token, int):
                raise PatchError(
                    f"{name}_token_id",
                    expected=f"the id of the placeholders of {name}s",
                    got=token,
                    fix="Set it in the config of the model.",
                )

    @property
    def class_tokens(self) -> int:
        """Tokens of the tower that are no patches. Raises: PatchError for an unknown tower."""
        kind = self.config.vision_config.model_type
        if kind not in _CLASS_TOKENS:
            raise PatchError(
                "vision_config.model_type",
                expected=f"one of {', '.join(_CLASS_TOKENS)}, whose tokens are counted",
                got=kind,
                fix="Models with other towers are not supported yet.",
            )
        return _CLASS_TOKENS[kind]

    @property
    def placeholders(self) -> dict[str, int]:
        """The token ids that stand for visual tokens, by modality."""
        return {name: getattr(self.config, f"{name}_token_id") for name in self.pixel_inputs}

    @property
    def vision_phases(self) -> list[tuple[nn.Module, str, str]]:
        """The owner, the method and the phase of each part between pixels and visual tokens."""
        found = []
        for path, phase in _VISION_PARTS:
            *names, method = path.split(".")
            owner = self.inner
            for name in names:
                owner = getattr(owner, name, None)
            owners = owner if isinstance(owner, nn.ModuleList) else [owner]
            found += [(one, method, phase) for one in owners if hasattr(one, method)]
        return found

    def runs_of(self, item: VisualItem) -> list[int]:
        """The placeholders of an image or video that stand in a row, run by run."""
        if not self.frames_apart:
            return [item.tokens]
        ((_, tokens),) = item.groups
        return [tokens] * item.all_groups

    def pooled(self, x: Tensor, modality: str) -> Tensor:
        """What becomes of the tokens of a tower: x[views, n, c] -> [views, tokens, c].

        Without the first, where the config leaves it out; pooled, where the model pools features.
        """
        del modality
        return x[:, 1:] if self.config.vision_feature_select_strategy == "default" else x

    @abstractmethod
    def items(self, inputs: Inputs, modality: str) -> Items | None:
        """The images, or the videos, of ``inputs`` in order; None without any."""

    @property
    def group_frames(self) -> int:
        """Frames of a video that the tower joins to one group."""
        return 1

    def with_groups(self, inputs: Inputs, kept: Sequence[Sequence[int]]) -> Inputs:
        """``inputs`` with the pixels of some groups of each video alone.

        Args: kept, the groups of each video in order, numbered from 0.
        """
        name = self.pixel_inputs["video"][0]
        pixels: Tensor = inputs[name]  # [videos, frames, channels, height, width]
        index = torch.tensor(kept, device=pixels.device)
        video = torch.arange(len(pixels), device=pixels.device)[:, None]
        return {**inputs, name: pixels[video, index]}

    def require_as_configured(self, inputs: Inputs, *names: str) -> None:
        """Raises: PatchError for arguments that make other tokens than the config says."""
        for name in names:
            given, own = inputs.get(name), getattr(self.config, name, None)
            if given is not None and given != own:
                raise PatchError(
                    name,
                    expected=f"{own}, as in the model's config, or none",
                    got=given,
                    fix=f"Set model.config.{name} instead.",
                )

    def items_of_pixels(self, inputs: Inputs, modality: str) -> Items:
        """``items`` of ``inputs`` that have some. Raises: PatchError without any."""
        items = self.items(inputs, modality)
        if items is None:
            name = self.pixel_inputs[modality][0]
            raise PatchError(
                name,
                expected=f"the pixels of {modality}s",
                got="none",
                fix=f"Pass {name} as the processor returned it.",
            )
        return items
