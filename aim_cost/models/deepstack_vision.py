"""DeepStackVisionSpec: the tower of Qwen3-VL, which gives features of inner blocks too.

Source: transformers 5.24, qwen3_vl, with sdpa; DeepStack is arXiv 2406.04334.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

from aim_cost.errors import SpecError
from aim_cost.models.linear import Linear
from aim_cost.models.qwen_ops import (
    FLOAT32_BYTES,
    Views,
    block_ops,
    check_kernels,
    merger_ops,
    patches_of,
)
from aim_cost.models.qwen_vision import QwenVisionSpec
from aim_cost.models.vision_spec import TowerBytes
from aim_cost.ops.count import Count
from aim_cost.ops.kernels import Kernels
from aim_cost.ops.kind import Elementwise
from aim_cost.ops.op import Op

_TAPS = 4  # learned positions that are weighed to one
_INT64_BYTES = 8


@dataclass(frozen=True)
class DeepStackVisionSpec(QwenVisionSpec):
    """A Qwen tower with learned positions and a merger for each of some inner blocks.

    What these mergers give of a token is added to its hidden state after the first layers of the
    LLM, one after each.

    Args:
        position_embeddings: learned positions, a square that is interpolated to the grid.
        feature_blocks: the blocks whose outputs are merged too; those beyond the last block have
            a merger that never runs.
    """

    position_embeddings: int = 0
    feature_blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.feature_blocks)) < len(self.feature_blocks):
            raise SpecError(
                "vision_config.deepstack_visual_indexes",
                expected="each block once",
                got=list(self.feature_blocks),
                fix="Correct the config.",
            )

    @property
    def deepstack_levels(self) -> int:
        return sum(block < self.num_hidden_layers for block in self.feature_blocks)

    @property
    def mlp_names(self) -> tuple[str, ...]:
        return ("linear_fc1", "linear_fc2")

    @property
    def last_linears(self) -> tuple[Linear, ...]:
        """Matrices of the mergers."""
        square = self.hidden_size * self.spatial_merge_size**2
        mergers = ["merger"]
        mergers += [f"deepstack_merger_list.{i}" for i in range(len(self.feature_blocks))]
        return tuple(
            Linear((f"{merger}.linear_fc{number}",), square, outputs, bias=True)
            for merger in mergers
            for number, outputs in ((1, square), (2, self.output_size))
        )

    @property
    def parameters(self) -> int:
        """The tower and its mergers."""
        hidden, levels = self.hidden_size, len(self.feature_blocks)
        learned = (1 + self.position_embeddings) * hidden  # and the bias of the patches
        return super().parameters + learned + levels * 2 * hidden * self.spatial_merge_size**2

    def with_layers(self, layers: int) -> Self:
        """This tower with another number of layers, its features from the last of them."""
        blocks = blocks_within(self.feature_blocks, layers)
        return replace(self, num_hidden_layers=layers, feature_blocks=blocks)

    def ops(
        self,
        views: Sequence[tuple[Self, Count]],
        width: int,
        tokens: Sequence[Count] = (),
        attention: str = "proportional",
    ) -> list[Op]:
        """See ``qwen_ops.tower_ops``; no token is merged inside the tower."""
        assert not tokens
        del attention
        return list(_tower_ops(tuple(views), self.feature_blocks, width))

    def memory(
        self,
        views: Sequence[tuple[Self, int]],
        width: int,
        tokens: Sequence[int] = (),
        *,
        keeps_states: bool,
    ) -> TowerBytes:
        """As other towers of Qwen's; its outputs are kept in every release.

        The features of inner blocks are there from their block on, and the interpolated positions,
        in float32, with the places and weights of what they were made of, until the tower ends.
        """
        del keeps_states
        found = super().memory(views, width, tokens, keeps_states=False)
        patches = patches_of(tuple(views))
        given = patches // self.spatial_merge_size**2 * self.output_size
        features = self.deepstack_levels * width * given
        positions = patches * (
            FLOAT32_BYTES * self.hidden_size + _TAPS * (_INT64_BYTES + FLOAT32_BYTES)
        )
        return TowerBytes(
            found.running + features + positions, found.encoded + features, found.kept + features
        )


def blocks_within(blocks: Sequence[int], layers: int) -> tuple[int, ...]:
    """``blocks`` of a tower that is cut to ``layers``: the last ones, where some are gone."""
    if all(block < layers for block in blocks):
        return tuple(blocks)
    return tuple(range(layers))[-len(blocks) :]


@lru_cache(maxsize=8)  # the schedules of a case share its tower
def _tower_ops(views: Views, feature_blocks: tuple[int, ...], width: int) -> tuple[Op, ...]:
    """Patches, positions, blocks, and a merger after each of ``feature_blocks`` and at the end."""
    vision = views[0][0]
    hidden, rows = vision.hidden_size, patches_of(views)
    make = Kernels("vision.tower", width)
    ops = [make.linear("patch_embedding", rows, vision.patch_elements, hidden, bias=True)]
    ops += _position_ops(make, rows * hidden)
    check_kernels(views)
    for block in range(vision.num_hidden_layers):
        ops += block_ops(views, width, block)
        if block in feature_blocks:
            ops += merger_ops(vision, rows, width)
    return (*ops, *merger_ops(vision, rows, width))


def _position_ops(make: Kernels, size: Count) -> list[Op]:
    """Four learned positions of each patch, weighed in float32, summed and added; ``size`` of it.

    Not counted: their places and weights, which are computed once from the grid.
    """
    taps, wide = _TAPS * size, _TAPS * size * FLOAT32_BYTES // make.width
    return [
        make.elementwise("position_rows", Elementwise.GATHER, taps, taps),
        make.elementwise("position_weights", Elementwise.COPY, taps, wide),
        make.elementwise("position_sums", Elementwise.REDUCTION, wide, wide // _TAPS),
        make.elementwise("position_cast", Elementwise.COPY, wide // _TAPS, size),
        make.elementwise("position_add", Elementwise.ADD, 2 * size, size),
    ]
