"""Workload: the prompts of a prefill. Execution: how the model runs them."""

import math
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from aim_cost.checks import one_of, sequence, whole
from aim_cost.errors import AimError, SpecError
from aim_cost.models.images import ImageGrid, checked_size, group_sizes, image_grids
from aim_cost.models.model import ModelSpec
from aim_cost.models.vision_spec import FrameSize, Tower
from aim_cost.units import dtype_bytes

MOST_PROMPT_TOKENS = 10**8
"""Of all prompts of a batch, far above any that is run; beyond it times lose their digits."""

ATTENTION_KINDS = ("sdpa", "eager")
MODES = ("eager", "cuda-graph", "ideal")

Groups = tuple[tuple[int, int], ...]
"""Groups of visual tokens by size: (groups, tokens of each), the largest first."""
SCORINGS = ("torch", "fused")


class LastLayer(StrEnum):
    """What the LLM's last layer computes in a prefill.

    ``all``: every token, as transformers runs it. ``needed``: keys and values of every token, all
    else only for the last token, whose logits are needed.
    """

    ALL = "all"
    NEEDED = "needed"

    @classmethod
    def read(cls, name: str, error: type[AimError] = SpecError) -> "LastLayer":
        """The member called ``name``. Raises: ``error`` for another name."""
        return cls(one_of(name, list(cls), "last_layer", error))


@dataclass(frozen=True)
class VisualInput:
    """Visual tokens of one prompt before any reduction.

    ``groups`` are frames, image crops or, in Qwen's towers, temporal patches of two frames: encoded
    one by one, merged one by one, ``group_tokens`` each. ``newline_tokens`` follow the last group
    of a video, or in an image each row of its grid. ``others``: further, smaller groups.
    ``several``: the groups of each image or video in order, where there are several.
    """

    groups: int
    group_tokens: int
    newline_tokens: int
    others: Groups = ()
    several: tuple[Groups, ...] = ()

    @property
    def items(self) -> tuple[Groups, ...]:
        """The groups of each image or video in order."""
        return self.several or (((self.groups, self.group_tokens), *self.others),)


@dataclass(frozen=True)
class Workload:
    """One prefill: ``batch`` equal prompts of a video or an image and ``text_tokens`` of text.

    Args:
        frames: video frames; exclusive with image_tokens and images.
        image_tokens: visual tokens of an image before merging, without newline.
        images: height and width in pixels of each image of a prompt; the model's processor cuts
            or resizes them (aim_cost.models.images).
        text_tokens: all tokens that are not visual, before and after them; 0 only under
            conventions that count visual tokens alone.
        batch: prompts.
        frame_size: height and width in pixels of what the vision tower gets, for towers that take
            any (Qwen's); without it 224 x 224, or the square image of ``image_tokens``. Not for
            ``images``.
    Raises: SpecError.
    """

    text_tokens: int
    frames: int | None = None
    image_tokens: int | None = None
    batch: int = 1
    frame_size: FrameSize | None = None
    images: tuple[FrameSize, ...] | None = None

    def __post_init__(self) -> None:
        whole(self.text_tokens, "text_tokens", SpecError, at_least=0)
        whole(self.batch, "batch", SpecError)
        kinds = ("frames", "image_tokens", "images")
        given = [name for name in kinds if getattr(self, name) is not None]
        if len(given) != 1:
            raise SpecError(
                "workload",
                expected="either frames, image_tokens or images",
                got=", ".join(given) or "none",
                fix="Give one of them (--frames N, --image-tokens N or --image HEIGHTxWIDTH).",
            )
        if self.images is None:
            whole(getattr(self, given[0]), given[0], SpecError)
            return
        sizes = sequence(self.images, "images", SpecError)
        if not sizes or self.frame_size is not None:
            raise SpecError(
                "images",
                expected="the height and width of each, and no frame_size",
                got=f"{self.images}, frame_size {self.frame_size}",
                fix="E.g. images=((1080, 1920),).",
            )
        object.__setattr__(self, "images", tuple(map(checked_size, sizes)))

    def sized(self, model: ModelSpec) -> ModelSpec:
        """``model`` at the resolution of this workload: of several images, the largest's.

        Raises: SpecError when it takes no such.
        """
        if self.images is not None:
            sizes = [grid.crop_size for grid in self.image_grids(model)]
            return model.at(max(sizes, key=math.prod))
        return model.at(self.frame_size, self.image_tokens)

    def image_grids(self, model: ModelSpec) -> tuple[ImageGrid, ...]:
        """How ``model`` takes each of the images; none where there are none. Raises: SpecError."""
        return image_grids(model, self.images or ())

    def views(self, model: ModelSpec) -> tuple[tuple[Tower, int], ...]:
        """What the vision tower encodes of one prompt: (tower at a resolution, how many there).

        Frames, crops or temporal patches; images of several sizes give several. Raises: SpecError.
        """
        if self.images is None:
            return ((self.sized(model).vision, self.visual_input(model).groups),)
        crops: Counter[FrameSize] = Counter()
        for grid in self.image_grids(model):
            crops[grid.crop_size] += grid.crops
        return tuple((model.vision.at(size), number) for size, number in crops.items())

    def label(self) -> str:
        """The visual input in words: ``32 frames``, ``576 image tokens``, ``image 1080 x 1920``."""
        if self.images is not None:
            sizes = ", ".join(f"{height} x {width}" for height, width in self.images[:3])
            more = f" and {len(self.images) - 3} more" if len(self.images) > 3 else ""
            return f"image{'s' * (len(self.images) > 1)} {sizes}{more}"
        if self.frames is not None:
            return f"{self.frames} frames"
        return f"{self.image_tokens} image tokens"

    def visual_input(self, model: ModelSpec) -> VisualInput:
        """Lay the visual tokens out for ``model``.

        ``image_tokens`` are encoded as the fewest images that hold them.
        Raises: SpecError when it takes no video, and for more than MOST_PROMPT_TOKENS.
        """
        found = self._visual_input(model)
        visual = [(found.groups, found.group_tokens), *found.others]
        prompt = sum(groups * tokens for groups, tokens in visual) + found.newline_tokens
        tokens = self.batch * (prompt + self.text_tokens)
        if tokens > MOST_PROMPT_TOKENS:
            raise SpecError(
                "workload",
                expected=f"at most {MOST_PROMPT_TOKENS} tokens in all prompts of the batch",
                got=f"{tokens}: {self.label()} + {self.text_tokens} text tokens, x {self.batch}",
                fix="Give fewer or smaller frames or images, less text, or a smaller batch.",
            )
        return found

    def _visual_input(self, model: ModelSpec) -> VisualInput:
        if self.images is not None:
            grids = self.image_grids(model)
            (groups, tokens), *others = group_sizes(grids)
            newlines = sum(grid.newline_tokens for grid in grids)
            several = tuple(group_sizes([grid]) for grid in grids) if len(grids) > 1 else ()
            return VisualInput(groups, tokens, newlines, tuple(others), several)
        model = self.sized(model)
        if self.frames is not None:
            groups = -(-self.frames // model.group_frames)
            return VisualInput(groups, model.frame_tokens, model.newline_tokens)
        assert self.image_tokens is not None
        crops = -(-self.image_tokens // model.image_tokens)
        if self.image_tokens % crops:
            raise SpecError(
                "image_tokens",
                expected=f"equal crops of at most {model.image_tokens} tokens",
                got=f"{self.image_tokens} tokens over {crops} crops",
                fix=f"Give a multiple of {crops}, or of {model.image_tokens}.",
            )
        each = self.image_tokens // crops
        several = (((1, each),),) * crops if crops > 1 else ()
        return VisualInput(crops, each, newline_tokens=0, several=several)


@dataclass(frozen=True)
class Execution:
    """How the model is run.

    Args:
        dtype: of weights and activations.
        attention: of the LLM; ``sdpa`` never writes the score matrix, ``eager`` does.
        mode: ``eager``, transformers as it is, the host starts each kernel; ``cuda-graph``, the
            same kernels started by the device; ``ideal``, the roofline.
        scoring: of AIM's importance; ``torch``, block by block of rows, each written once;
            ``fused``, the Triton kernels of a GPU, which write no matrix and compute its products
            again in each pass.
        last_layer: what the LLM's last layer computes; its name does as well.
        keeps_tower_states: whether the hidden states of all layers of a SigLIP or CLIP tower stay
            until the features are there, and nothing of a tower stays after that, as in
            transformers 5.17. Newer ones keep the last state alone, as long as the prefill runs.
            Memory alone depends on it.
    Raises: SpecError.
    """

    dtype: str = "bfloat16"
    attention: str = "sdpa"
    mode: str = "eager"
    scoring: str = "torch"
    last_layer: LastLayer = LastLayer.ALL
    keeps_tower_states: bool = False

    def __post_init__(self) -> None:
        dtype_bytes(self.dtype)
        one_of(self.attention, ATTENTION_KINDS, "attention", SpecError)
        one_of(self.mode, MODES, "execution", SpecError)
        one_of(self.scoring, SCORINGS, "scoring", SpecError)
        object.__setattr__(self, "last_layer", LastLayer.read(self.last_layer))

    @property
    def element_bytes(self) -> int:
        return dtype_bytes(self.dtype)
