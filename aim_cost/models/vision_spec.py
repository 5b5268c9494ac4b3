"""Dimensions of a vision tower, read from the ``vision_config`` of a Hugging Face config."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from aim_cost.checks import integral, numbers, sequence, whole
from aim_cost.errors import SpecError
from aim_cost.models.config import Section

FrameSize: TypeAlias = tuple[int, int]
"""Height and width of a frame or an image as the tower gets it, pixels."""

DEFAULT_FRAME_SIZE: FrameSize = (224, 224)
"""Of a tower that takes any resolution, where nothing else is said."""


def parse_frame_size(text: str, option: str = "--frame-size") -> FrameSize:
    """Read ``HEIGHTxWIDTH``. Raises: SpecError that names the ``option``."""
    sides = numbers(text.replace("x", ","), option, "HEIGHTxWIDTH, e.g. 224x224", SpecError)
    if len(sides) != 2:
        raise SpecError(option, expected="HEIGHTxWIDTH", got=text, fix=f"E.g. {option} 224x224.")
    height, width = (integral(side, option, SpecError) for side in sides)
    return height, width


@dataclass(frozen=True)
class TowerSpec:
    """What all vision towers have. Names are those of SigLIP's and CLIP's configs."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    patch_size: int
    num_channels: int

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise SpecError(
                "vision_config.hidden_size",
                expected=f"a multiple of num_attention_heads = {self.num_attention_heads}",
                got=self.hidden_size,
                fix="Correct one of the two.",
            )


@dataclass(frozen=True)
class VisionSpec(TowerSpec):
    """A ViT encoder of square images (SigLIP or CLIP).

    ``has_class_token`` adds one token to the patches inside the encoder. All
    ``num_hidden_layers`` are run, whichever layer the features are read from: that is what
    transformers executes.
    """

    image_size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch_size > self.image_size:
            raise SpecError(
                "vision_config.patch_size",
                expected=f"at most image_size = {self.image_size}",
                got=self.patch_size,
                fix="Correct one of the two.",
            )

    @property
    def has_class_token(self) -> bool:
        return self.model_type == "clip_vision_model"

    @property
    def patches_per_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of one image: 729 for SigLIP at 384, 576 for CLIP at 336."""
        return self.patches_per_side**2

    @property
    def tokens(self) -> int:
        """Tokens inside the encoder, the class token included."""
        return self.patches + self.has_class_token

    @property
    def frame_size(self) -> FrameSize:
        return self.image_size, self.image_size

    @property
    def pixels(self) -> int:
        """Elements of one image, channels included."""
        return self.num_channels * self.image_size**2

    def at(self, frame_size: FrameSize | None, image_tokens: int | None = None) -> "VisionSpec":
        """This tower, whatever the ``image_tokens``. Raises: SpecError for any other size."""
        if frame_size is not None and frame_size != self.frame_size:
            raise SpecError(
                "frame_size",
                expected=f"{self.frame_size}, the only size of {self.model_type}",
                got=frame_size,
                fix="Leave it out (no --frame-size).",
            )
        return self


@dataclass(frozen=True)
class QwenVisionSpec(TowerSpec):
    """The tower of Qwen2-VL or Qwen2.5-VL, at one resolution.

    A temporal patch holds ``temporal_patch_size`` frames and attends to itself alone; the last
    frame of an odd number is repeated. An image is one temporal patch.

    Args:
        hidden_size: inside the tower; Qwen2-VL's config calls it embed_dim, num_hidden_layers depth
            and num_attention_heads num_heads.
        output_size: after the merger, the LLM's hidden size.
        spatial_merge_size: sides of the square of patches that the merger makes one token.
        window_size: pixels of a window's side, None where all blocks attend to all (Qwen2-VL).
        full_blocks: blocks that attend to all, among others that attend within windows.
        frame_size: height and width in pixels, multiples of ``unit``.
    """

    output_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    window_size: int | None = None
    full_blocks: tuple[int, ...] = ()
    frame_size: FrameSize = DEFAULT_FRAME_SIZE

    def __post_init__(self) -> None:
        super().__post_init__()
        size = sequence(self.frame_size, "frame_size", SpecError)
        for side in size:
            whole(side, "frame_size", SpecError)
        if len(size) != 2 or any(side % self.unit for side in size):
            raise SpecError(
                "frame_size",
                expected=f"height and width, both multiples of {self.unit} pixels",
                got=size,
                fix=f"E.g. {8 * self.unit}x{8 * self.unit}: processors resize to such sizes.",
            )
        object.__setattr__(self, "frame_size", size)
        if self.window_size is not None and self.window_size < self.unit:
            raise SpecError(
                "vision_config.window_size",
                expected=f"at least patch_size x spatial_merge_size = {self.unit}",
                got=self.window_size,
                fix="Correct the config.",
            )

    @property
    def is_gated(self) -> bool:
        """Whether its MLP is gated and its norms are RMS norms, as in Qwen2.5-VL."""
        return self.model_type == "qwen2_5_vl_vision"

    @property
    def unit(self) -> int:
        """Side of the square of pixels behind a token of the LLM."""
        return self.patch_size * self.spatial_merge_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of merged tokens: (8, 8) at 224 x 224."""
        height, width = self.frame_size
        return height // self.unit, width // self.unit

    @property
    def merged_tokens(self) -> int:
        """Tokens of a temporal patch after the merger: 64 at 224 x 224."""
        rows, columns = self.grid
        return rows * columns

    @property
    def patches(self) -> int:
        """Patches of a temporal patch, all its tokens inside the tower: 256 at 224 x 224."""
        return self.merged_tokens * self.spatial_merge_size**2

    @property
    def tokens(self) -> int:
        return self.patches

    @property
    def pixels(self) -> int:
        """Elements of one temporal patch, channels included."""
        height, width = self.frame_size
        return self.num_channels * self.temporal_patch_size * height * width

    def segments(self, block: int) -> dict[int, int]:
        """How many segments of how many patches attend to themselves alone in ``block``.

        Of one temporal patch; windows at its right and lower edges are cut off.
        """
        if self.window_size is None or block in self.full_blocks:
            return {self.patches: 1}
        rows, columns = (_cut(side, self.window_size // self.unit) for side in self.grid)
        found: Counter[int] = Counter()
        for height, down in rows.items():
            for width, across in columns.items():
                found[height * width * self.spatial_merge_size**2] += down * across
        return dict(found)

    def at(self, frame_size: FrameSize | None, image_tokens: int | None = None) -> "QwenVisionSpec":
        """This tower at ``frame_size``; without one, at that of a square of ``image_tokens``.

        Raises: SpecError.
        """
        if frame_size is not None:
            return replace(self, frame_size=frame_size)
        if image_tokens is None:
            return self
        side = round(image_tokens**0.5)
        if side**2 != image_tokens:
            raise SpecError(
                "image_tokens",
                expected="the tokens of a square image, or a frame_size",
                got=image_tokens,
                fix="Give its height and width (--frame-size HEIGHTxWIDTH).",
            )
        return replace(self, frame_size=(side * self.unit, side * self.unit))


def _cut(side: int, window: int) -> Counter[int]:
    """Lengths of the pieces of ``side`` and their number: whole windows, then the rest."""
    found = Counter({window: side // window})
    found[side % window] += 1
    return Counter({length: times for length, times in found.items() if length and times})


Tower: TypeAlias = VisionSpec | QwenVisionSpec


def read_vision(config: Section) -> Tower:
    """The tower that a ``vision_config`` describes. Raises: SpecError that names the field."""
    return _READERS[config.choice("model_type", _READERS)](config)


def _vit(config: Section) -> VisionSpec:
    return VisionSpec(
        model_type=config.get("model_type"),
        hidden_size=config.whole("hidden_size"),
        intermediate_size=config.whole("intermediate_size"),
        num_hidden_layers=config.whole("num_hidden_layers"),
        num_attention_heads=config.whole("num_attention_heads"),
        patch_size=config.whole("patch_size"),
        image_size=config.whole("image_size"),
        num_channels=config.whole("num_channels"),
    )


def _qwen2_vl(config: Section) -> QwenVisionSpec:
    hidden = config.whole("embed_dim")
    return QwenVisionSpec(
        **_qwen(config),
        hidden_size=hidden,
        intermediate_size=hidden * config.whole("mlp_ratio"),
        output_size=config.whole("hidden_size"),
    )


def _qwen2_5_vl(config: Section) -> QwenVisionSpec:
    blocks = sequence(
        config.get("fullatt_block_indexes"), config.where("fullatt_block_indexes"), SpecError
    )
    return QwenVisionSpec(
        **_qwen(config),
        hidden_size=config.whole("hidden_size"),
        intermediate_size=config.whole("intermediate_size"),
        output_size=config.whole("out_hidden_size"),
        window_size=config.whole("window_size"),
        full_blocks=blocks,
    )


def _qwen(config: Section) -> dict[str, Any]:
    return {
        "model_type": config.get("model_type"),
        "num_hidden_layers": config.whole("depth"),
        "num_attention_heads": config.whole("num_heads"),
        "patch_size": config.whole("patch_size"),
        "num_channels": config.whole("in_channels"),
        "temporal_patch_size": config.whole("temporal_patch_size"),
        "spatial_merge_size": config.whole("spatial_merge_size"),
    }


_READERS: dict[str, Callable[[Section], Tower]] = {
    "siglip_vision_model": _vit,
    "clip_vision_model": _vit,
    "qwen2_vl_vision": _qwen2_vl,
    "qwen2_5_vl_vision": _qwen2_5_vl,
}
