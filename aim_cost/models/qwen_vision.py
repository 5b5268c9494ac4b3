"""QwenVisionSpec: the tower of Qwen2-VL or Qwen2.5-VL, its merger included.

Source: transformers 5.23, qwen2_vl and qwen2_5_vl, with sdpa.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from aim_cost.models.linear import Linear, parameters_of
from aim_cost.models.qwen_grid import QwenGrid
from aim_cost.models.qwen_ops import FLOAT32_BYTES, patches_of, tower_ops
from aim_cost.models.vision_spec import TowerBytes
from aim_cost.ops.count import Count
from aim_cost.ops.op import Op


@dataclass(frozen=True)
class QwenVisionSpec(QwenGrid):
    """The tower at one resolution: its matrices, parameters, ops and bytes; fields as QwenGrid."""

    modules: ClassVar = ("model.visual",)
    layer_modules: ClassVar = "blocks"

    @property
    def mlp_names(self) -> tuple[str, ...]:
        """The names of the matrices of an MLP, the last of which leads back."""
        return ("gate_proj", "up_proj", "down_proj") if self.is_gated else ("fc1", "fc2")

    @property
    def layer_linears(self) -> tuple[Linear, ...]:
        hidden, inner, names = self.hidden_size, self.intermediate_size, self.mlp_names
        return (
            Linear(("attn.qkv",), hidden, 3 * hidden, bias=True),
            Linear(("attn.proj",), hidden, hidden, bias=True),
            *(Linear((f"mlp.{name}",), hidden, inner, bias=True) for name in names[:-1]),
            Linear((f"mlp.{names[-1]}",), inner, hidden, bias=True),
        )

    @property
    def last_linears(self) -> tuple[Linear, ...]:
        """Matrices of the merger."""
        square = self.hidden_size * self.spatial_merge_size**2
        return (
            Linear(("merger.mlp.0",), square, square, bias=True),
            Linear(("merger.mlp.2",), square, self.output_size, bias=True),
        )

    @property
    def parameters(self) -> int:
        """The tower and its merger."""
        norm = self.hidden_size if self.is_gated else 2 * self.hidden_size
        layer = parameters_of(self.layer_linears) + 2 * norm
        ends = self.patch_elements * self.hidden_size + norm + parameters_of(self.last_linears)
        return self.num_hidden_layers * layer + ends

    @property
    def gate_tensors(self) -> int:
        return 3 if self.is_gated else super().gate_tensors

    def ops(
        self,
        views: Sequence[tuple[Self, Count]],
        width: int,
        tokens: Sequence[Count] = (),
        attention: str = "proportional",
    ) -> list[Op]:
        """See ``tower_ops``; no token is merged inside the tower."""
        assert not tokens
        del attention
        return list(tower_ops(tuple(views), width))

    def memory(
        self,
        views: Sequence[tuple[Self, int]],
        width: int,
        tokens: Sequence[int] = (),
        *,
        keeps_states: bool,
    ) -> TowerBytes:
        """In each block the most is alive where q and k are rotated in float32, or in the MLP.

        The merger writes less.
        """
        assert not tokens
        pixels = width * sum(number * view.pixels for view, number in views)
        rows = patches_of(tuple(views))
        states = rows * self.hidden_size
        angles = 2 * FLOAT32_BYTES * rows * self.hidden_size // self.num_attention_heads
        # residual, its norm, q, k, v; then the rotated q and three parts of the rotated k
        rotation = 5 * width * states + 4 * FLOAT32_BYTES * states
        if width < FLOAT32_BYTES:  # q and k are cast
            rotation += 2 * FLOAT32_BYTES * states
        feed_forward = width * (2 * states + self.gate_tensors * rows * self.intermediate_size)
        kept = pixels if keeps_states else pixels + width * states
        return TowerBytes(pixels + angles + max(rotation, feed_forward), kept, kept)
