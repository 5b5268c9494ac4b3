"""Dimensions of a vision-language model, read from its Hugging Face config."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from aim_cost.checks import mapping, one_of, whole
from aim_cost.errors import SpecError

_PRESETS = resources.files("aim_cost") / "presets"
_ABSENT = object()
_FULL_CONFIG = (
    "Give the complete config: hub files omit fields that equal a class default; "
    "`AutoConfig.from_pretrained(name).to_dict()` writes them all."
)


@dataclass(frozen=True)
class VisionSpec:
    """A ViT encoder (SigLIP or CLIP). Fields keep their Hugging Face names.

    ``has_class_token`` adds one token to the patches inside the encoder. All
    ``num_hidden_layers`` are run, whichever layer the features are read from: that is what
    transformers executes.
    """

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    patch_size: int
    image_size: int
    num_channels: int

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise SpecError(
                "vision_config.hidden_size",
                expected=f"a multiple of num_attention_heads = {self.num_attention_heads}",
                got=self.hidden_size,
                fix="Correct one of the two.",
            )
        if self.patch_size > self.image_size:
            raise SpecError(
                "vision_config.patch_size",
                expected=f"at most image_size = {self.image_size}",
                got=self.patch_size,
                fix="Correct one of the two.",
            )

    @property
    def has_class_token(self) -> bool:
        return self.model_type == "clip_vision_model"

    @property
    def patches_per_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of one image: 729 for SigLIP at 384, 576 for CLIP at 336."""
        return self.patches_per_side**2

    @property
    def tokens(self) -> int:
        """Tokens inside the encoder, the class token included."""
        return self.patches + self.has_class_token


@dataclass(frozen=True)
class TextSpec:
    """A decoder-only LLM (Qwen2 or Llama). Fields keep their Hugging Face names."""

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
class ModelSpec:
    """A vision tower, a two-layer projector (vision hidden -> text hidden -> text hidden), an LLM.

    Args:
        name: how the model is called in tables.
        model_type: ``llava_onevision`` (SigLIP + Qwen2) or ``llava`` (CLIP + Llama).
        vision, text: the two transformers.
        drops_class_token: the ``default`` feature selection; ``full`` keeps it.
        checkpoint: hub name of the weights, when known.
        base_vocab_size: vocabulary of the LLM before the vision-language tokens and padding were
            added; equal to ``text.vocab_size`` when unknown. The llm-viewer convention counts it.
    """

    name: str
    model_type: str
    vision: VisionSpec
    text: TextSpec
    drops_class_token: bool
    checkpoint: str | None
    base_vocab_size: int

    @property
    def image_tokens(self) -> int:
        """Visual tokens of one image or crop after the projector: 729 (SigLIP), 576 (CLIP)."""
        return self.vision.tokens - (self.vision.has_class_token and self.drops_class_token)

    @property
    def frame_tokens(self) -> int:
        """Visual tokens of one video frame entering the merger: 14 x 14 = 196 for LLaVA-OneVision.

        Raises: SpecError when the model takes no video.
        """
        if self.model_type != "llava_onevision":
            raise SpecError(
                f"model {self.name}",
                expected="a model that takes video",
                got=f"model_type {self.model_type!r}",
                fix="Describe an image workload instead (--image-tokens N).",
            )
        return ((self.vision.patches_per_side + 1) // 2) ** 2

    @classmethod
    def from_hf_config(
        cls, config: Mapping[str, Any] | str | Path, *, name: str | None = None
    ) -> "ModelSpec":
        """Read a Hugging Face ``config.json`` (a dict, the file, or its folder).

        Raises: SpecError that names the missing, unknown or contradictory field.
        """
        if not isinstance(config, Mapping):
            path = Path(config)
            path = path / "config.json" if path.is_dir() else path
            name = name or (path.parent.name if path.name == "config.json" else path.stem)
            config = _read_json(path)
        model_type = one_of(_field(config, "model_type"), _VISION_OF, "model_type", SpecError)
        vision = _vision(mapping(_field(config, "vision_config"), "vision_config", SpecError))
        text = _text(mapping(_field(config, "text_config"), "text_config", SpecError), config)
        wanted = (_VISION_OF[model_type], _TEXT_OF[model_type])
        if (vision.model_type, text.model_type) != wanted:
            raise SpecError(
                "vision_config.model_type, text_config.model_type",
                expected=f"{wanted} under model_type {model_type!r}",
                got=(vision.model_type, text.model_type),
                fix="This combination is not supported yet.",
            )
        _check_feature_layer(_field(config, "vision_feature_layer"), vision.num_hidden_layers)
        strategy = one_of(
            _field(config, "vision_feature_select_strategy"),
            ("default", "full"),
            "vision_feature_select_strategy",
            SpecError,
        )
        if strategy == "default" and not vision.has_class_token:
            raise SpecError(
                "vision_feature_select_strategy",
                expected=f"'full' for {vision.model_type}, which has no class token to drop",
                got=strategy,
                fix="Correct the config.",
            )
        extra = mapping(
            config.get("aim_cost", {}), "aim_cost", SpecError, keys=("base_vocab_size",)
        )
        checkpoint = config.get("_name_or_path") or None
        return cls(
            name=name or checkpoint or model_type,
            model_type=model_type,
            vision=vision,
            text=text,
            drops_class_token=strategy == "default",
            checkpoint=checkpoint,
            base_vocab_size=whole(
                extra.get("base_vocab_size", text.vocab_size), "aim_cost.base_vocab_size", SpecError
            ),
        )


_VISION_OF = {"llava_onevision": "siglip_vision_model", "llava": "clip_vision_model"}
_TEXT_OF = {"llava_onevision": "qwen2", "llava": "llama"}


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
    if Path(name_or_path).exists():
        return ModelSpec.from_hf_config(name_or_path)
    name = str(name_or_path)
    return ModelSpec.from_hf_config(preset_config(name), name=name)


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(
            str(path), expected="a readable config.json", got=str(error), fix="Check the path."
        ) from error
    except ValueError as error:
        raise SpecError(
            str(path), expected="valid JSON", got=str(error), fix="Correct the file."
        ) from error
    return mapping(content, str(path), SpecError)


def _field(config: Mapping[str, Any], key: str, parent: str = "") -> Any:
    value = config.get(key, _ABSENT)
    if value is _ABSENT:
        raise SpecError(f"{parent}{key}", expected="a value", got="nothing", fix=_FULL_CONFIG)
    return value


def _vision(config: Mapping[str, Any]) -> VisionSpec:
    def number(key: str) -> int:
        where = f"vision_config.{key}"
        return whole(_field(config, key, "vision_config."), where, SpecError)

    return VisionSpec(
        model_type=str(_field(config, "model_type", "vision_config.")),
        hidden_size=number("hidden_size"),
        intermediate_size=number("intermediate_size"),
        num_hidden_layers=number("num_hidden_layers"),
        num_attention_heads=number("num_attention_heads"),
        patch_size=number("patch_size"),
        image_size=number("image_size"),
        num_channels=number("num_channels"),
    )


def _text(config: Mapping[str, Any], outer: Mapping[str, Any]) -> TextSpec:
    def number(key: str) -> int:
        where = f"text_config.{key}"
        return whole(_field(config, key, "text_config."), where, SpecError)

    hidden, heads = number("hidden_size"), number("num_attention_heads")
    head_dim = config.get("head_dim")
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
    tied = outer.get("tie_word_embeddings", config.get("tie_word_embeddings", False))
    return TextSpec(
        model_type=str(_field(config, "model_type", "text_config.")),
        hidden_size=hidden,
        intermediate_size=number("intermediate_size"),
        num_hidden_layers=number("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=number("num_key_value_heads"),
        head_dim=whole(head_dim, "text_config.head_dim", SpecError),
        vocab_size=number("vocab_size"),
        tie_word_embeddings=bool(tied),
    )


def _check_feature_layer(layer: object, layers: int) -> None:
    if isinstance(layer, int) and not isinstance(layer, bool) and -layers - 1 <= layer <= layers:
        return
    raise SpecError(
        "vision_feature_layer",
        expected=f"one layer between {-layers - 1} and {layers}",
        got=layer,
        fix="Lists of layers are not supported; correct the config.",
    )
