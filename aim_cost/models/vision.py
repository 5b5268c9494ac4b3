"""A ViT of square images, SigLIP's or CLIP's; ops of its layers, of projector and pooling."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

from aim_cost.errors import SpecError
from aim_cost.models.linear import Linear, parameters_of
from aim_cost.models.siglip_head import head_linears, head_ops, head_parameters
from aim_cost.models.vision_spec import FrameSize, TowerBytes, TowerSpec
from aim_cost.ops.count import Count
from aim_cost.ops.kernels import Kernels
from aim_cost.ops.kind import Elementwise, EncoderAttention
from aim_cost.ops.op import Op
from aim_cost.ops.reduction import match_ops

_INDEX_BYTES = 8


@dataclass(frozen=True)
class VisionSpec(TowerSpec):
    """A ViT encoder of square images (SigLIP or CLIP).

    CLIP adds a class token to the patches. All ``num_hidden_layers`` are run, whichever layer the
    features are read from: that is what transformers executes.

    Args:
        has_head: whether SigLIP's pooling head follows, which is run though nothing reads it.
    """

    modules: ClassVar = ("model.vision_tower", "vision_tower.vision_model")
    layer_modules: ClassVar = "encoder.layers"

    image_size: int
    has_head: bool = False

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
    def is_clip(self) -> bool:
        """Whether it has CLIP's class token, first norm and activation; SigLIP's otherwise."""
        return self.model_type == "clip_vision_model"

    @property
    def class_tokens(self) -> int:
        return int(self.is_clip)

    @property
    def any_size(self) -> bool:
        return False

    @property
    def has_closed_form(self) -> bool:
        return not self.has_head

    @property
    def takes_video(self) -> bool:
        return False

    @property
    def channel_major(self) -> bool:
        """True for SigLIP; CLIP's class token is joined to a copy that lies token by token."""
        return not self.is_clip

    @property
    def group_frames(self) -> int:
        return 1

    @property
    def unit(self) -> int:
        return self.patch_size

    @property
    def grid(self) -> tuple[int, int]:
        side = self.image_size // self.patch_size
        return side, side

    @property
    def patches(self) -> int:
        """Patches of one image: 729 for SigLIP at 384, 576 for CLIP at 336."""
        rows, columns = self.grid
        return rows * columns

    @property
    def tokens(self) -> int:
        """Tokens inside the encoder, the class token included."""
        return self.patches + self.class_tokens

    @property
    def output_tokens(self) -> int:
        return self.tokens

    @property
    def output_size(self) -> None:
        """None: the model has a projector."""
        return None

    @property
    def patch_elements(self) -> int:
        return self.num_channels * self.patch_size**2

    @property
    def frame_size(self) -> FrameSize:
        return self.image_size, self.image_size

    @property
    def pixels(self) -> int:
        """Elements of one image, channels included."""
        return self.num_channels * self.image_size**2

    def at(self, frame_size: FrameSize | None, image_tokens: int | None = None) -> Self:
        """This tower, whatever the ``image_tokens``. Raises: SpecError for any other size."""
        if frame_size is not None and frame_size != self.frame_size:
            raise SpecError(
                "frame_size",
                expected=f"{self.frame_size}, the only size of {self.model_type}",
                got=frame_size,
                fix="Leave it out (no --frame-size).",
            )
        return self

    @property
    def layer_linears(self) -> tuple[Linear, ...]:
        hidden, inner = self.hidden_size, self.intermediate_size
        names = ("q_proj", "k_proj", "v_proj", "out_proj")
        return (
            *(Linear((f"self_attn.{name}",), hidden, hidden, bias=True) for name in names),
            Linear(("mlp.fc1",), hidden, inner, bias=True),
            Linear(("mlp.fc2",), inner, hidden, bias=True),
        )

    @property
    def last_linears(self) -> tuple[Linear, ...]:
        """The parameters of the head."""
        return head_linears(self) if self.has_head else ()

    @property
    def parameters(self) -> int:
        """SigLIP, or CLIP's vision model."""
        hidden = self.hidden_size
        norm = 2 * hidden
        layer = parameters_of(self.layer_linears) + 2 * norm
        patch = self.patch_elements * hidden
        total = patch + self.tokens * hidden + self.num_hidden_layers * layer + norm
        if self.has_head:
            total += head_parameters(self)
        if self.is_clip:
            return total + hidden + norm  # class embedding; a norm before the layers; no patch bias
        return total + hidden  # bias of the patch embedding

    def ops(
        self,
        views: Sequence[tuple[Self, Count]],
        width: int,
        tokens: Sequence[Count] = (),
        attention: str = "proportional",
    ) -> list[Op]:
        """All images at once, see ``tower_ops``; their number may be a symbol."""
        return tower_ops(self, sum(number for _, number in views), width, tokens, attention)

    def memory(
        self,
        views: Sequence[tuple[Self, int]],
        width: int,
        tokens: Sequence[int] = (),
        *,
        keeps_states: bool,
    ) -> TowerBytes:
        """``tokens``: of an image entering each layer and after the last, () where none merge."""
        images, counts = sum(number for _, number in views), self._counts(tokens)
        pixels = images * self.pixels
        # the tower's last hidden state, normed and not, outlives it
        encoded = pixels + 2 * images * self.tokens * self.hidden_size
        layers = images * self._largest_layer(counts, keeps_states)
        earlier = images * sum(counts[:-1]) * self.hidden_size if keeps_states else 0
        return TowerBytes(
            running=width * (pixels + layers),
            encoded=width * (encoded + earlier),
            kept=width * (pixels if keeps_states else encoded),
        )

    def _counts(self, tokens: Sequence[Count]) -> Sequence[Count]:
        """Tokens entering each layer and after the last."""
        return tokens or (self.tokens,) * (self.num_hidden_layers + 1)

    def _largest_layer(self, counts: Sequence[int], keeps_states: bool) -> int:
        """Elements alive at most in a layer, of one image: in its attention or in its MLP.

        The tower's embeddings live as long as it runs, and with ``keeps_states`` the input of
        every layer. With a layer's input live its norm, q, k, v, what attention gives and its
        projection; or the residual, its norm and the MLP.
        """
        hidden, inner = self.hidden_size, self.intermediate_size
        earlier = peak = 0
        for before, after in pairwise(counts):
            attention, feed_forward = 7 * before * hidden, self.gate_tensors * after * inner
            residual = (before + 2 * after) * hidden
            peak = max(peak, earlier + attention, earlier + residual + feed_forward)
            # the first layer's input, or those of all layers so far
            earlier = earlier + before * hidden if keeps_states else self.tokens * hidden
        return peak


def tower_ops(
    vision: Any,
    images: Count,
    width: int,
    tokens: Sequence[Count] = (),
    attention: str = "proportional",
) -> list[Op]:
    """Ops of a ViT over ``images`` frames or crops at once. ``vision``: a VisionSpec, or symbols.

    Args: tokens, where some are merged inside the tower, those of an image entering each layer and
        those after the last, as ``TokenTrace.tower_tokens``; attention, as in VisionMerge.
    Every layer runs, whichever is read: that is what transformers executes. The attention is sdpa.
    CLIP's norm over all tokens comes first, before the layers; its last one takes the class token
    alone and is left out.
    """
    hidden = vision.hidden_size
    rows = images * vision.tokens
    window = vision.num_channels * vision.patch_size**2
    top = Kernels("vision.tower", width)
    patch_rows = images * vision.patches
    ops = [
        top.linear("patch_embedding", patch_rows, window, hidden),
        top.elementwise(
            "position_embedding",
            Elementwise.POSITION_EMBEDDING,
            rows * hidden + vision.tokens * hidden,
            rows * hidden,
        ),
    ]
    counts = tokens or (vision.tokens,) * (vision.num_hidden_layers + 1)
    for layer, (before, after) in enumerate(pairwise(counts)):
        make = Kernels("vision.tower", width, layer)
        if before != vision.tokens and attention == "proportional":
            ops.append(
                make.elementwise("log_sizes", Elementwise.COPY, images * before, images * before)
            )
        ops += _attention_ops(vision, make, images, before)
        if after != before:
            ops += _merge_ops(vision, make, images, before, after)
        ops += _mlp_ops(vision, make, images * after)
    if counts[-1] != vision.tokens:
        places = _INDEX_BYTES * rows // width
        ops.append(
            top.elementwise("gather", Elementwise.GATHER, places + rows * hidden, rows * hidden)
        )
    ops.append(
        top.elementwise("post_layernorm", Elementwise.LAYER_NORM, rows * hidden, rows * hidden)
    )
    return ops + head_ops(vision, images, width) if vision.has_head else ops


def _add(vision: Any) -> Elementwise:
    return Elementwise.TOWER_ADD if vision.channel_major else Elementwise.ADD


def _attention_ops(vision: Any, make: Kernels, images: Count, tokens: Count) -> list[Op]:
    hidden, heads, rows = vision.hidden_size, vision.num_attention_heads, images * tokens
    return [
        make.elementwise("layer_norm1", Elementwise.LAYER_NORM, rows * hidden, rows * hidden),
        *(make.linear(f"{n}_proj", rows, hidden, hidden, bias=True) for n in "qkv"),
        *make.attention("sdpa", EncoderAttention, images, tokens, heads, heads, hidden // heads),
        make.linear("out_proj", rows, hidden, hidden, bias=True),
        make.elementwise("attention_add", _add(vision), 2 * rows * hidden, rows * hidden),
    ]


def _mlp_ops(vision: Any, make: Kernels, rows: Count) -> list[Op]:
    hidden, inner = vision.hidden_size, vision.intermediate_size
    return [
        make.elementwise("layer_norm2", Elementwise.LAYER_NORM, rows * hidden, rows * hidden),
        make.linear("fc1", rows, hidden, inner, bias=True),
        make.elementwise("activation", Elementwise.ACTIVATION, rows * inner, rows * inner),
        make.linear("fc2", rows, inner, hidden, bias=True),
        make.elementwise("mlp_add", _add(vision), 2 * rows * hidden, rows * hidden),
    ]


def _merge_ops(vision: Any, make: Kernels, images: Count, before: Count, after: Count) -> list[Op]:
    """Matching by the mean of the keys over heads, the averages, and where each place went."""
    hidden, rows = vision.hidden_size, images * before
    head_dim = hidden // vision.num_attention_heads
    places = _INDEX_BYTES * images * vision.tokens // make.width
    return [
        make.elementwise("mean_keys", Elementwise.COPY, rows * hidden, rows * head_dim),
        *match_ops(make, images, before, head_dim),
        make.elementwise("average", Elementwise.AVERAGE, rows * hidden, images * after * hidden),
        make.elementwise("places", Elementwise.COPY, places, places),
    ]


def projector_ops(
    vision_hidden: Count, text_hidden: Count, rows: Count, width: int, bias: bool = True
) -> list[Op]:
    """Ops of the two-layer projector: vision hidden -> text hidden -> text hidden."""
    make = Kernels("vision.projector", width)
    return [
        make.linear("linear_1", rows, vision_hidden, text_hidden, bias),
        make.elementwise("gelu", Elementwise.GELU, rows * text_hidden, rows * text_hidden),
        make.linear("linear_2", rows, text_hidden, text_hidden, bias),
    ]


def pooling_ops(
    frames: Count, patches: Count, frame_tokens: Count, hidden: Count, width: int
) -> list[Op]:
    """Ops of the pooling of each frame, ``patches`` -> ``frame_tokens`` (bilinear in OneVision)."""
    make = Kernels("vision.pooling", width)
    return [
        make.elementwise(
            "bilinear",
            Elementwise.BILINEAR,
            frames * patches * hidden,
            frames * frame_tokens * hidden,
        )
    ]
