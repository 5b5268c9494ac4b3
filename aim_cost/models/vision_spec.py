"""Tower: the protocol of vision towers, with their sizes, ops, parameters and bytes.

The kinds are ``vision.VisionSpec``, ``qwen_vision.QwenVisionSpec`` and, with DeepStack,
``deepstack_vision.DeepStackVisionSpec``; ``towers`` reads them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, Self, TypeAlias

from aim_cost.checks import integral, numbers
from aim_cost.errors import SpecError
from aim_cost.models.linear import Linear
from aim_cost.ops.count import Count
from aim_cost.ops.op import Op

FrameSize: TypeAlias = tuple[int, int]
"""Height and width of a frame or an image as the tower gets it, pixels."""

DEFAULT_FRAME_SIZE: FrameSize = (224, 224)
"""The frame size of a tower that takes any resolution, where no other is given."""


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

    modules: ClassVar[tuple[str, ...]]
    """The paths of the tower in a model; several where releases of transformers differ."""
    layer_modules: ClassVar[str]
    """The path of its layers, inside the tower."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    patch_size: int
    num_channels: int
    hidden_act: str

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise SpecError(
                "vision_config.hidden_size",
                expected=f"a multiple of num_attention_heads = {self.num_attention_heads}",
                got=self.hidden_size,
                fix="Correct one of the two.",
            )

    def with_layers(self, layers: int) -> Self:
        """The same tower with another number of layers."""
        return replace(self, num_hidden_layers=layers)

    @property
    def layer_linears(self) -> tuple[Linear, ...]:
        """The matrices of one layer, paths inside the layer."""
        raise NotImplementedError

    @property
    def last_linears(self) -> tuple[Linear, ...]:
        """The matrices after the last layer, paths inside the tower."""
        raise NotImplementedError

    @property
    def linears(self) -> tuple[Linear, ...]:
        """All matrices, paths inside the model. A convolution of the patches is none."""
        layers = (
            linear.under(f"{self.layer_modules}.{layer}")
            for layer in range(self.num_hidden_layers)
            for linear in self.layer_linears
        )
        return tuple(linear.under(*self.modules) for linear in (*layers, *self.last_linears))

    @property
    def deepstack_levels(self) -> int:
        """See Tower."""
        return 0

    @property
    def gate_tensors(self) -> int:
        """Tensors of the MLP's inner width that are alive at most.

        quick_gelu is x sigmoid(1.702 x): one more than others.
        """
        return 3 if self.hidden_act == "quick_gelu" else 2


@dataclass(frozen=True)
class TowerBytes:
    """Bytes alive because of the tower, pixels included.

    Args: running, at most while it runs; encoded, while features are made of its output; kept,
        from then on.
    """

    running: int
    encoded: int
    kept: int


class Tower(Protocol):
    """A vision tower at one resolution: its sizes, ops, parameters and bytes.

    Views are (the tower at a resolution, how many images, crops or temporal patches of it). All
    views of a call are those of one tower.
    """

    @property
    def model_type(self) -> str: ...

    @property
    def hidden_size(self) -> int: ...

    @property
    def intermediate_size(self) -> int: ...

    @property
    def num_hidden_layers(self) -> int: ...

    @property
    def num_attention_heads(self) -> int: ...

    @property
    def num_channels(self) -> int: ...

    @property
    def patch_size(self) -> int: ...

    @property
    def frame_size(self) -> FrameSize:
        """Height and width of what it sees, pixels."""
        ...

    @property
    def any_size(self) -> bool:
        """Whether it takes images of any size; then its views differ."""
        ...

    @property
    def has_closed_form(self) -> bool:
        """Whether ``sweeps.closed_forms`` says its FLOPs."""
        ...

    @property
    def takes_video(self) -> bool:
        """Whether it takes videos without a pooling after it."""
        ...

    @property
    def channel_major(self) -> bool:
        """Whether hidden states lie channel by channel between layers, as a convolution's do."""
        ...

    @property
    def group_frames(self) -> int:
        """Frames of a video that are encoded together."""
        ...

    @property
    def unit(self) -> int:
        """Side of the square of pixels that becomes one output token."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of output tokens, a class token left out."""
        ...

    @property
    def patches(self) -> int:
        """Patches of one view."""
        ...

    @property
    def class_tokens(self) -> int:
        """Tokens inside that are no patches: 1 for CLIP, else 0."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens of one view inside the tower."""
        ...

    @property
    def output_tokens(self) -> int:
        """Tokens of one view that it gives, a class token included."""
        ...

    @property
    def output_size(self) -> int | None:
        """Width of its output where a merger of its own makes it as wide as the LLM, else None."""
        ...

    @property
    def deepstack_levels(self) -> int:
        """Further features of each output token; the first so many layers of the LLM add them."""
        ...

    @property
    def patch_elements(self) -> int:
        """Elements of one patch of pixels, channels and frames included."""
        ...

    @property
    def pixels(self) -> int:
        """Elements of one view, channels and frames included."""
        ...

    @property
    def parameters(self) -> int:
        """Parameters, as transformers builds it, a merger of its own included."""
        ...

    @property
    def linears(self) -> tuple[Linear, ...]:
        """All its matrices, paths inside the model."""
        ...

    def at(self, frame_size: FrameSize | None, image_tokens: int | None = None) -> Self:
        """This tower at ``frame_size``, or at that of a square image. Raises: SpecError."""
        ...

    def with_layers(self, layers: int) -> Self:
        """This tower with another number of layers."""
        ...

    def ops(
        self,
        views: Sequence[tuple[Self, Count]],
        width: int,
        tokens: Sequence[Count] = (),
        attention: str = "proportional",
    ) -> list[Op]:
        """Ops from pixels to its output, elements of ``width`` bytes.

        ``tokens`` and ``attention``: of a tower that merges tokens inside, see
        ``vision.tower_ops``; a tower of any size does not.
        """
        ...

    def memory(
        self,
        views: Sequence[tuple[Self, int]],
        width: int,
        tokens: Sequence[int] = (),
        *,
        keeps_states: bool,
    ) -> TowerBytes:
        """Bytes alive while all ``views`` are encoded in one go, elements of ``width`` bytes.

        ``keeps_states``: see ``Execution.keeps_tower_states``.
        """
        ...
