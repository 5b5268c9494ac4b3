"""Image rules: how the processor of a model cuts or resizes an image."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from aim_cost.checks import sequence
from aim_cost.errors import SpecError
from aim_cost.models.config import Section, bounded
from aim_cost.models.vision_spec import FrameSize

_ONEVISION_SIDES = range(384, 2304 + 1, 384)
_ONEVISION_PINPOINTS = tuple((h, w) for h in _ONEVISION_SIDES for w in _ONEVISION_SIDES)
_NEXT_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
_MOST_SIDE = 2**15  # pixels of a grid
_MOST_PIXELS = 2**26


@dataclass(frozen=True)
class Anyres:
    """LLaVA's images of any resolution: a base view, and the image cut into a grid of crops.

    Args:
        pinpoints: height and width in pixels of the grids to choose from.
        max_crops: a grid of more tokens than 1.1**2 times this many crops have is shrunk; None
            where none is (LLaVA-NeXT, LLaVA-NeXT-Video).
        alone: only a prompt's single image is cut; several are a base view and a newline each.
    Source: transformers 5.24, defaults of LlavaOnevisionConfig, LlavaNextConfig and
    LlavaNextVideoConfig.
    """

    pinpoints: tuple[FrameSize, ...]
    max_crops: int | None = None
    alone: bool = False


@dataclass(frozen=True)
class PixelLimits:
    """Qwen's images keep their shape and are resized to a number of pixels within limits.

    Source: transformers 5.23, Qwen2VLImageProcessor, which Qwen2.5-VL and Qwen3-VL use too: 56 x 56
    to 28 x 28 x 1280. A checkpoint's preprocessor_config.json may say other limits.
    """

    least: int = 56 * 56
    most: int = 28 * 28 * 1280

    def __post_init__(self) -> None:
        if self.least > self.most:
            raise SpecError(
                "aim_cost.image_pixels",
                expected="the least, then the most",
                got=f"{self.least}, {self.most}",
                fix="Swap them.",
            )


ImageRule: TypeAlias = Anyres | PixelLimits
"""An image rule; None where an image is one square view (LLaVA-1.5)."""


def onevision_images(root: Section, own: Mapping[str, Any]) -> ImageRule:
    """Of LLaVA-OneVision; ``own``, the config's aim_cost section, as below. Raises: SpecError."""
    del own
    ratio = root.get("vision_aspect_ratio")
    found = re.fullmatch(r"anyres_max_([1-9]\d{0,3})", str(ratio))
    if found is None:
        raise SpecError(
            "vision_aspect_ratio",
            expected="anyres_max_N, N crops of at most 9999",
            got=ratio,
            fix="Correct the config, e.g. anyres_max_9.",
        )
    return Anyres(_pinpoints(root, _ONEVISION_PINPOINTS), int(found[1]), alone=True)


def next_images(root: Section, own: Mapping[str, Any]) -> ImageRule:
    """Of LLaVA-NeXT and LLaVA-NeXT-Video. Raises: SpecError."""
    del own
    return Anyres(_pinpoints(root, _NEXT_PINPOINTS))


def qwen_images(root: Section, own: Mapping[str, Any]) -> ImageRule:
    """Of Qwen's models, whose limits are no field of their config. Raises: SpecError."""
    del root
    limits = own.get("image_pixels")
    if limits is None:
        return PixelLimits()
    return PixelLimits(*_pair(limits, "aim_cost.image_pixels", _MOST_PIXELS))


def _pinpoints(root: Section, default: tuple[FrameSize, ...]) -> tuple[FrameSize, ...]:
    name = "image_grid_pinpoints"
    given = root.values.get(name)
    if given is None:
        return default
    return tuple(_pair(pair, name, _MOST_SIDE) for pair in sequence(given, name, SpecError))


def _pair(given: object, where: str, most: int) -> tuple[int, int]:
    pair = sequence(given, where, SpecError)
    if len(pair) != 2:
        raise SpecError(where, expected="two whole numbers", got=given, fix=f"Correct {where}.")
    return bounded(pair[0], where, most), bounded(pair[1], where, most)
