"""The towers of Qwen2-VL and Qwen2.5-VL, their mergers included, and their ops.

Source: transformers 5.23, qwen2_vl and qwen2_5_vl, with sdpa.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeAlias

from aim_cost.checks import sequence, whole
from aim_cost.errors import SpecError
from aim_cost.models.linear import Linear, parameters_of
from aim_cost.models.vision_spec import DEFAULT_FRAME_SIZE, FrameSize, TowerBytes, TowerSpec
from aim_cost.ops.count import Count
from aim_cost.ops.kernels import Kernels
from aim_cost.ops.kind import Elementwise, EncoderAttention
from aim_cost.ops.op import Op

_FLOAT32_BYTES = 4


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

    modules: ClassVar = ("model.visual",)
    layer_modules: ClassVar = "blocks"

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

    @property
    def layer_linears(self) -> tuple[Linear, ...]:
        hidden, inner = self.hidden_size, self.intermediate_size
        names = ("gate_proj", "up_proj", "down_proj") if self.is_gated else ("fc1", "fc2")
        return (
            Linear(("attn.qkv",), hidden, 3 * hidden, bias=True),
            Linear(("attn.proj",), hidden, hidden, bias=True),
            *(Linear((f"mlp.{name}",), hidden, inner, bias=True) for name in names[:-1]),
            Linear((f"mlp.{names[-1]}",), inner, hidden, bias=True),
        )

    @property
    def last_linears(self) -> tuple[Linear, ...]:
        """Those of the merger."""
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
        return tower_ops(views, width)

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
        rows = _patches(views)
        states = rows * self.hidden_size
        angles = 2 * _FLOAT32_BYTES * rows * self.hidden_size // self.num_attention_heads
        # residual, its norm, q, k, v; then the rotated q and three parts of the rotated k
        rotation = 5 * width * states + 4 * _FLOAT32_BYTES * states
        if width < _FLOAT32_BYTES:  # q and k are cast
            rotation += 2 * _FLOAT32_BYTES * states
        feed_forward = width * (2 * states + self.gate_tensors * rows * self.intermediate_size)
        kept = pixels if keeps_states else pixels + width * states
        return TowerBytes(pixels + angles + max(rotation, feed_forward), kept, kept)


def _cut(side: int, window: int) -> Counter[int]:
    """Lengths of the pieces of ``side`` and their number: whole windows, then the rest."""
    found = Counter({window: side // window})
    found[side % window] += 1
    return Counter({length: times for length, times in found.items() if length and times})


MOST_KERNELS = 1_000_000
"""Each of them stands in the list of ops: more than these take long and fill the memory."""

Views: TypeAlias = Sequence[tuple[QwenVisionSpec, int]]
"""The tower at each resolution, and the number of temporal patches there."""


def tower_ops(views: Views, width: int) -> list[Op]:
    """Ops of the temporal patches of all ``views``, one tower's, all in one sequence.

    transformers starts one sdpa kernel for each segment that attends to itself alone: a temporal
    patch, or a window of one (Qwen2.5-VL, all blocks but four). So does this list: an op each,
    without padding. FLOPs are those of the segments, not of the whole sequence.
    Not counted: the lengths of the segments, which the host reads back from the device before
    every attention; the angles of the positions, which are computed once.
    """
    vision = views[0][0]
    hidden, rows = vision.hidden_size, _patches(views)
    top = Kernels("vision.tower", width)
    ops = [top.linear("patch_embedding", rows, vision.patch_elements, hidden)]
    if vision.window_size is not None:
        ops.append(top.elementwise("gather", Elementwise.GATHER, rows * hidden, rows * hidden))
    _check_kernels(views)
    for block in range(vision.num_hidden_layers):
        ops += _block_ops(views, width, block)
    return ops + _merger_ops(vision, rows, width)


def _check_kernels(views: Views) -> None:
    """Raises: SpecError where the tower would start more kernels than MOST_KERNELS."""
    kernels = sum(
        groups * sum(view.segments(block).values())
        for view, groups in views
        for block in range(view.num_hidden_layers)
    )
    if kernels > MOST_KERNELS:
        raise SpecError(
            "workload",
            expected=f"at most {MOST_KERNELS} kernels of the vision tower's attention",
            got=f"{kernels}, one a temporal patch or window in each block",
            fix="Give fewer or smaller frames or images, or a smaller batch.",
        )


def _patches(views: Views) -> int:
    return sum(groups * view.patches for view, groups in views)


def _block_ops(views: Views, width: int, block: int) -> list[Op]:
    make, vision = Kernels("vision.tower", width, block), views[0][0]
    hidden, heads = vision.hidden_size, vision.num_attention_heads
    rows, head_dim = _patches(views), hidden // heads
    size = rows * hidden
    # cos and sin stay in float32
    angles = 2 * rows * head_dim * _FLOAT32_BYTES // width
    ops = [
        make.elementwise("norm1", _norm(vision), size, size),
        make.linear("qkv", rows, hidden, 3 * hidden, bias=True),
        make.elementwise("rotary", Elementwise.ROTARY, 2 * size + angles, 2 * size),
    ]
    for view, groups in views:
        for patches, times in view.segments(block).items():
            ops += make.attention("sdpa", EncoderAttention, 1, patches, heads, heads, head_dim) * (
                groups * times
            )
    return [
        *ops,
        make.elementwise("join_segments", Elementwise.COPY, size, size),
        make.linear("proj", rows, hidden, hidden, bias=True),
        make.elementwise("attention_add", Elementwise.ADD, 2 * size, size),
        make.elementwise("norm2", _norm(vision), size, size),
        *_mlp_ops(vision, make, rows),
        make.elementwise("mlp_add", Elementwise.ADD, 2 * size, size),
    ]


def _mlp_ops(vision: QwenVisionSpec, make: Kernels, rows: int) -> list[Op]:
    hidden, inner = vision.hidden_size, vision.intermediate_size
    size = rows * inner
    if not vision.is_gated:
        return [
            make.linear("fc1", rows, hidden, inner, bias=True),
            make.elementwise("activation", Elementwise.ACTIVATION, size, size),
            make.linear("fc2", rows, inner, hidden, bias=True),
        ]
    return [
        make.linear("gate_proj", rows, hidden, inner, bias=True),
        make.elementwise("silu", Elementwise.SILU, size, size),
        make.linear("up_proj", rows, hidden, inner, bias=True),
        make.elementwise("gate_mul", Elementwise.GATE_MUL, 2 * size, size),
        make.linear("down_proj", rows, inner, hidden, bias=True),
    ]


def _merger_ops(vision: QwenVisionSpec, patches: int, width: int) -> list[Op]:
    """The norm of each patch, then two layers over squares of patches laid side by side."""
    make = Kernels("vision.projector", width)
    size, tokens = patches * vision.hidden_size, patches // vision.spatial_merge_size**2
    inputs, outputs = vision.hidden_size * vision.spatial_merge_size**2, vision.output_size
    ops = [
        make.elementwise("ln_q", _norm(vision), size, size),
        make.linear("linear_1", tokens, inputs, inputs, bias=True),
        make.elementwise("gelu", Elementwise.GELU, tokens * inputs, tokens * inputs),
        make.linear("linear_2", tokens, inputs, outputs, bias=True),
    ]
    if vision.window_size is not None:  # back from the order of the windows
        ops.append(
            make.elementwise("gather", Elementwise.GATHER, tokens * outputs, tokens * outputs)
        )
    return ops


def _norm(vision: QwenVisionSpec) -> Elementwise:
    return Elementwise.RMS_NORM if vision.is_gated else Elementwise.LAYER_NORM
