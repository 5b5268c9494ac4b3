"""What is asked of the model (Workload) and how it is run (Execution)."""

from dataclasses import dataclass

from aim_cost.checks import one_of, whole
from aim_cost.errors import SpecError
from aim_cost.model import ModelSpec
from aim_cost.units import dtype_bytes
from aim_cost.vision_spec import FrameSize

ATTENTION_KINDS = ("sdpa", "eager")
MODES = ("eager", "cuda-graph", "ideal")
SCORINGS = ("torch", "fused")
LAST_LAYERS = ("all", "needed")


@dataclass(frozen=True)
class VisualInput:
    """Visual tokens of one prompt before any reduction.

    ``groups`` are frames, image crops or, in Qwen's towers, temporal patches of two frames: encoded
    one by one, merged one by one, ``group_tokens`` each. ``newline_tokens`` follow the last group
    of a video.
    """

    groups: int
    group_tokens: int
    newline_tokens: int


@dataclass(frozen=True)
class Workload:
    """One prefill: ``batch`` equal prompts of a video or an image and ``text_tokens`` of text.

    Args:
        frames: video frames; exclusive with image_tokens.
        image_tokens: visual tokens of an image before merging, without newline.
        text_tokens: all tokens that are not visual, before and after them; 0 only under
            conventions that count visual tokens alone.
        batch: prompts.
        frame_size: height and width in pixels of what the vision tower gets, for towers that take
            any (Qwen's); without it 224 x 224, or the square image of ``image_tokens``.
    Raises: SpecError.
    """

    text_tokens: int
    frames: int | None = None
    image_tokens: int | None = None
    batch: int = 1
    frame_size: FrameSize | None = None

    def __post_init__(self) -> None:
        whole(self.text_tokens, "text_tokens", SpecError, at_least=0)
        whole(self.batch, "batch", SpecError)
        if (self.frames is None) == (self.image_tokens is None):
            raise SpecError(
                "workload",
                expected="either frames or image_tokens",
                got=f"frames={self.frames}, image_tokens={self.image_tokens}",
                fix="Give one of them (--frames N or --image-tokens N).",
            )
        visual = (
            ("frames", self.frames)
            if self.frames is not None
            else ("image_tokens", self.image_tokens)
        )
        whole(visual[1], visual[0], SpecError)

    def sized(self, model: ModelSpec) -> ModelSpec:
        """``model`` at the resolution of this workload. Raises SpecError when it takes no such."""
        return model.at(self.frame_size, self.image_tokens)

    def visual_input(self, model: ModelSpec) -> VisualInput:
        """Lay the visual tokens out for ``model``. Raises SpecError when it takes no video.

        An image workload is encoded as the fewest crops that hold its tokens.
        """
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
        return VisualInput(crops, self.image_tokens // crops, newline_tokens=0)


@dataclass(frozen=True)
class Execution:
    """How the model is run.

    Args:
        dtype: of weights and activations.
        attention: of the LLM; ``sdpa`` never writes the score matrix, ``eager`` does.
        mode: ``eager``, transformers as it is, the host starts each kernel; ``cuda-graph``, the
            same kernels started by the device; ``ideal``, the roofline.
        scoring: of AIM's importance; ``torch``, head by head, each matrix written; ``fused``, the
            Triton kernels of a GPU, which write none and compute its products anew in each pass.
        last_layer: of the LLM; ``all``, as transformers runs it, for every token; ``needed``, keys
            and values of every token, all else of the last alone, whose logits are asked for.
    Raises: SpecError.
    """

    dtype: str = "bfloat16"
    attention: str = "sdpa"
    mode: str = "eager"
    scoring: str = "torch"
    last_layer: str = "all"

    def __post_init__(self) -> None:
        dtype_bytes(self.dtype)
        one_of(self.attention, ATTENTION_KINDS, "attention", SpecError)
        one_of(self.mode, MODES, "execution", SpecError)
        one_of(self.scoring, SCORINGS, "scoring", SpecError)
        one_of(self.last_layer, LAST_LAYERS, "last_layer", SpecError)

    @property
    def element_bytes(self) -> int:
        return dtype_bytes(self.dtype)
