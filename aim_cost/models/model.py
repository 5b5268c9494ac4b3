"""Dimensions of a vision-language model, read from its Hugging Face config."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from aim_cost.checks import mapping, one_of, whole
from aim_cost.errors import SpecError
from aim_cost.models.config import Section
from aim_cost.models.image_rule import ImageRule, read_image_rule
from aim_cost.models.towers import read_vision
from aim_cost.models.vision_spec import FrameSize, Tower

_PRESETS = resources.files("aim_cost.models") / "presets"


@dataclass(frozen=True)
class TextSpec:
    """A decoder-only LLM. Fields keep their Hugging Face names.

    ``model_type`` is ``qwen2`` or ``llama``: Qwen2-VL's and Qwen2.5-VL's are Qwen2 with other
    position angles, which cost nothing that is counted.
    """

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise SpecError(
                "text_config.num_key_value_heads",
                expected=f"a divisor of num_attention_heads = {self.num_attention_heads}",
                got=self.num_key_value_heads,
                fix="Correct one of the two.",
            )

    @property
    def query_dim(self) -> int:
        """Width of q and of the attention output, elements."""
        return self.num_attention_heads * self.head_dim

    @property
    def has_qkv_bias(self) -> bool:
        return self.model_type == "qwen2"

    @property
    def key_value_dim(self) -> int:
        """Width of k and of v, elements."""
        return self.num_key_value_heads * self.head_dim


@dataclass(frozen=True)
class Pooling:
    """Pooling of the features of each video frame on a square grid.

    Args:
        stride: on both sides.
        rounds_up: 27 x 27 -> 14 x 14 by 2 (LLaVA-OneVision); otherwise what does not fill a square
            is left out (LLaVA-NeXT-Video, 24 x 24 -> 12 x 12).
        before_projector: what the tower gives is pooled, not what the projector gives.
    """

    stride: int
    rounds_up: bool
    before_projector: bool

    def tokens(self, grid: tuple[int, int]) -> int:
        """Tokens of a frame of so many rows and columns of features."""
        rows, columns = (
            -(-side // self.stride) if self.rounds_up else side // self.stride for side in grid
        )
        return rows * columns


@dataclass(frozen=True)
class ModelSpec:
    """A vision tower, a projector of two layers, and an LLM.

    Args:
        name: how the model is called in tables.
        model_type: of the whole config, e.g. ``llava_onevision``.
        vision, text: the two transformers. Qwen's towers end with a merger of their own in place of
            the projector.
        drops_class_token: the ``default`` feature selection; ``full`` keeps it.
        pooling: of video frames; None where there is none.
        checkpoint: hub name of the weights, when known.
        base_vocab_size: vocabulary of the LLM before the vision-language tokens and padding were
            added; equal to ``text.vocab_size`` when unknown. The llm-viewer convention counts it.
        image_rule: how images of any size are cut or resized; None: to one square view.
    """

    name: str
    model_type: str
    vision: Tower
    text: TextSpec
    drops_class_token: bool
    pooling: Pooling | None
    checkpoint: str | None
    base_vocab_size: int
    image_rule: ImageRule | None = None

    @property
    def image_tokens(self) -> int:
        """Visual tokens of one image or crop: 729 (SigLIP), 576 (CLIP), 64 (Qwen, 224 x 224)."""
        dropped = self.vision.class_tokens if self.drops_class_token else 0
        return self.vision.output_tokens - dropped

    @property
    def takes_video(self) -> bool:
        return self.pooling is not None or self.vision.takes_video

    @property
    def frame_tokens(self) -> int:
        """Visual tokens of a group of ``group_frames`` frames of a video: 196 for LLaVA-OneVision.

        Raises: SpecError when the model takes no video.
        """
        if self.vision.takes_video:
            return self.vision.output_tokens
        if self.pooling is None:
            raise SpecError(
                f"model {self.name}",
                expected="a model that takes video",
                got=f"model_type {self.model_type!r}",
                fix="Describe an image workload instead (--image-tokens N).",
            )
        return self.pooling.tokens(self.vision.grid)

    @property
    def group_frames(self) -> int:
        """Frames encoded and merged together: a temporal patch of Qwen's, else a single frame."""
        return self.vision.group_frames

    @property
    def newline_tokens(self) -> int:
        """Tokens that follow the last frame of a video."""
        return int(self.model_type == "llava_onevision")

    @property
    def square_side(self) -> int:
        """Side of the square images that the tower sees, pixels. Raises: SpecError for others."""
        if self.vision.any_size:
            raise SpecError(
                "vision_config",
                expected="a tower of square images (SigLIP or CLIP)",
                got=self.model_type,
                fix="Choose another model.",
            )
        return self.vision.frame_size[0]

    def at(self, frame_size: FrameSize | None, image_tokens: int | None = None) -> "ModelSpec":
        """This model with its tower at a resolution: ``frame_size``, or of a square image.

        Raises: SpecError when the tower takes no such size.
        """
        return replace(self, vision=self.vision.at(frame_size, image_tokens))

    @classmethod
    def from_hf_config(
        cls, config: Mapping[str, Any] | str | Path, *, name: str | None = None
    ) -> "ModelSpec":
        """Read a Hugging Face ``config.json`` (a dict, the file, or its folder).

        Raises: SpecError that names the missing, unknown or contradictory field.
        """
        if isinstance(config, Mapping):
            root = Section(config)
        else:
            path = Path(config)
            path = path / "config.json" if path.is_dir() else path
            name = name or (path.parent.name if path.name == "config.json" else path.stem)
            root = Section.load(path)
        model_type = root.choice("model_type", _PARTS)
        vision, text = root.section("vision_config"), root.section("text_config")
        found = (vision.get("model_type"), text.get("model_type"))
        if found != _PARTS[model_type]:
            raise SpecError(
                "vision_config.model_type, text_config.model_type",
                expected=f"{_PARTS[model_type]} under model_type {model_type!r}",
                got=found,
                fix="This combination is not supported yet.",
            )
        tower, decoder = read_vision(vision), _text(text, root)
        _check_output_size(tower, decoder)
        keys = ("base_vocab_size", "image_pixels")
        extra = mapping(root.values.get("aim_cost", {}), "aim_cost", SpecError, keys=keys)
        base = extra.get("base_vocab_size", decoder.vocab_size)
        checkpoint = root.values.get("_name_or_path") or None
        return cls(
            name=name or checkpoint or model_type,
            model_type=model_type,
            vision=tower,
            text=decoder,
            drops_class_token=_drops_class_token(root, tower),
            pooling=_pooling(root, model_type),
            checkpoint=checkpoint,
            base_vocab_size=whole(base, "aim_cost.base_vocab_size", SpecError),
            image_rule=read_image_rule(root, extra),
        )


_PARTS = {
    "llava": ("clip_vision_model", "llama"),
    "llava_next_video": ("clip_vision_model", "llama"),
    "llava_onevision": ("siglip_vision_model", "qwen2"),
    "qwen2_vl": ("qwen2_vl_vision", "qwen2_vl_text"),
    "qwen2_5_vl": ("qwen2_5_vl_vision", "qwen2_5_vl_text"),
}


def preset_names() -> list[str]:
    """Names of the models that ship with the project."""
    return sorted(
        f.name.removesuffix(".json") for f in _PRESETS.iterdir() if f.name.endswith(".json")
    )


def preset_config(name: str) -> dict[str, Any]:
    """The Hugging Face config of a preset. Raises SpecError that lists the presets."""
    one_of(name, preset_names(), "model", SpecError)
    config: dict[str, Any] = json.loads((_PRESETS / f"{name}.json").read_text(encoding="utf-8"))
    return config


def load_model_spec(name_or_path: str | Path) -> ModelSpec:
    """A preset by name, or any ``config.json`` by path. Raises SpecError."""
    if os.path.exists(name_or_path):  # no path at all is none that exists
        return ModelSpec.from_hf_config(name_or_path)
    name = str(name_or_path)
    return ModelSpec.from_hf_config(preset_config(name), name=name)


def _text(config: Section, outer: Section) -> TextSpec:
    hidden, heads = config.whole("hidden_size"), config.whole("num_attention_heads")
    head_dim = config.values.get("head_dim")
    if head_dim is None:
        if hidden % heads:
            raise SpecError(
                "text_config.hidden_size",
                expected=f"a multiple of num_attention_heads = {heads}, or a head_dim",
                got=hidden,
                fix="Correct one of the two or give head_dim.",
            )
        head_dim = hidden // heads
    # transformers gives the outer flag the last word
    inner_tied = config.values.get("tie_word_embeddings", False)
    return TextSpec(
        model_type="llama" if config.get("model_type") == "llama" else "qwen2",
        hidden_size=hidden,
        intermediate_size=config.whole("intermediate_size"),
        num_hidden_layers=config.whole("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=config.whole("num_key_value_heads"),
        head_dim=whole(head_dim, "text_config.head_dim", SpecError),
        vocab_size=config.whole("vocab_size"),
        tie_word_embeddings=bool(outer.values.get("tie_word_embeddings", inner_tied)),
    )


def _check_output_size(vision: Tower, text: TextSpec) -> None:
    if vision.output_size not in (None, text.hidden_size):
        raise SpecError(
            "vision_config",
            expected=f"an output as wide as text_config.hidden_size = {text.hidden_size}",
            got=vision.output_size,
            fix="Correct hidden_size (Qwen2-VL) or out_hidden_size (Qwen2.5-VL).",
        )


def _drops_class_token(config: Section, vision: Tower) -> bool:
    """Whether the features leave the class token out; a tower with a merger of its own has none."""
    if vision.output_size is not None:
        return False
    layer, layers = config.get("vision_feature_layer"), vision.num_hidden_layers
    if not isinstance(layer, int) or isinstance(layer, bool) or not -layers - 1 <= layer <= layers:
        raise SpecError(
            "vision_feature_layer",
            expected=f"one layer between {-layers - 1} and {layers}",
            got=layer,
            fix="Lists of layers are not supported; correct the config.",
        )
    strategy = config.choice("vision_feature_select_strategy", ("default", "full"))
    if strategy == "default" and not vision.class_tokens:
        raise SpecError(
            "vision_feature_select_strategy",
            expected=f"'full' for {vision.model_type}, which has no class token to drop",
            got=strategy,
            fix="Correct the config.",
        )
    return strategy == "default"


def _pooling(config: Section, model_type: str) -> Pooling | None:
    if model_type == "llava_onevision":
        return Pooling(stride=2, rounds_up=True, before_projector=False)
    if model_type == "llava_next_video":
        # the third mode, conv, has weights
        config.choice("spatial_pool_mode", ("average", "max"))
        stride = config.whole("spatial_pool_stride")
        return Pooling(stride, rounds_up=False, before_projector=True)
    return None
