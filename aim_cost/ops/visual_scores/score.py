"""VisualScore: a way to rank visual tokens before the LLM, and the sizes where it is computed."""

from dataclasses import dataclass
from typing import Any

from aim_cost.ops.count import Count
from aim_cost.ops.kind import Elementwise, Kind, Steps
from aim_cost.ops.op import Op
from aim_cost.ops.score import Score

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class VisualScore(Score):
    """A way to rank visual tokens before the LLM; ``ops`` takes a VisualSize.

    Args:
        across_sizes: whether it ranks tokens of frames or crops of unequal sizes.
        reads_tower: whether it reads the attention of the vision tower.
        reads_text: whether it reads the text of the prompt.
        least_frames: frames that a video must have, where it compares them; images are refused.
    """

    across_sizes: bool = False
    reads_tower: bool = False
    reads_text: bool = False
    least_frames: int = 1


@dataclass(frozen=True)
class VisualSize:
    """Where a score is computed before the LLM.

    Args:
        items: images or videos of all prompts of a batch.
        sets: sets of tokens that are ranked apart, in all of them.
        tokens, kept: of a set, before and after.
        frames: of a set, or its crops.
        vision: the tower, at the resolution of the workload's largest view.
        hidden: width of a visual token.
        width: bytes of an element.
        text_tokens: of each prompt.
    """

    items: Count
    sets: Count
    tokens: Count
    kept: Count
    frames: Count
    vision: Any
    hidden: Count
    width: int
    text_tokens: Count

    @property
    def rows(self) -> Count:
        """Tokens of all sets."""
        return self.sets * self.tokens

    @property
    def views(self) -> Count:
        """Frames or crops of all sets, ``tower_tokens`` each in the tower."""
        return self.sets * self.frames

    @property
    def tower_tokens(self) -> Count:
        """Tokens of a view inside the tower; one of any size has more for a larger view."""
        if not self.vision.any_size:
            tokens: Count = self.vision.tokens
            return tokens
        return self.tokens // self.frames * (self.vision.patches // self.vision.output_tokens)


def visual_op(
    name: str, size: VisualSize, flops: Count, reads: Count, writes: Count, kind: Kind
) -> Op:
    """An op of a score; ``reads`` and ``writes`` count elements."""
    return Op(name, "merge", flops, size.width * reads, size.width * writes, kind)


def unit_op(size: VisualSize) -> Op:
    """The unit vectors of all tokens."""
    elements = size.rows * size.hidden
    return visual_op("unit", size, 0, elements, elements, Elementwise.NORMALISE)


def loop_op(name: str, kind: Steps, reads: Count, writes: Count, flops: Count = 0) -> Op:
    """A loop of a score, in float32; ``reads`` and ``writes`` count elements of all its steps."""
    return Op(name, "merge", flops, _FLOAT32_BYTES * reads, _FLOAT32_BYTES * writes, kind)
