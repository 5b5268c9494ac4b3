"""QwenGrid: how the towers of Qwen2-VL and Qwen2.5-VL cut a frame, at one resolution.

Source: transformers 5.23, qwen2_vl and qwen2_5_vl, with sdpa.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Self

from aim_cost.checks import sequence, whole
from aim_cost.errors import SpecError
from aim_cost.models.vision_spec import DEFAULT_FRAME_SIZE, FrameSize, TowerSpec


@dataclass(frozen=True)
class QwenGrid(TowerSpec):
    """Patches, windows and tokens of a tower of Qwen2-VL or Qwen2.5-VL, at one resolution.

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
        if self.hidden_size // self.num_attention_heads % 4:
            raise SpecError(
                "vision_config.num_heads",
                expected="heads of a multiple of 4 elements: rows and columns turn pairs of them",
                got=f"{self.hidden_size} / {self.num_attention_heads} elements",
                fix="Correct num_heads or the width of the tower.",
            )
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
    def any_size(self) -> bool:
        return True

    @property
    def has_closed_form(self) -> bool:
        return False

    @property
    def takes_video(self) -> bool:
        return True

    @property
    def channel_major(self) -> bool:
        return False

    @property
    def group_frames(self) -> int:
        """Those of a temporal patch."""
        return self.temporal_patch_size

    @property
    def unit(self) -> int:
        """Side of the square of pixels that becomes a token of the LLM."""
        return self.patch_size * self.spatial_merge_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of merged tokens: (8, 8) at 224 x 224."""
        height, width = self.frame_size
        return height // self.unit, width // self.unit

    @property
    def class_tokens(self) -> int:
        return 0

    @property
    def output_tokens(self) -> int:
        """Tokens of a temporal patch after the merger: 64 at 224 x 224."""
        rows, columns = self.grid
        return rows * columns

    @property
    def patches(self) -> int:
        """Patches of a temporal patch, all its tokens inside the tower: 256 at 224 x 224."""
        return self.output_tokens * self.spatial_merge_size**2

    @property
    def tokens(self) -> int:
        return self.patches

    @property
    def patch_elements(self) -> int:
        return self.num_channels * self.temporal_patch_size * self.patch_size**2

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

    def at(self, frame_size: FrameSize | None, image_tokens: int | None = None) -> Self:
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
