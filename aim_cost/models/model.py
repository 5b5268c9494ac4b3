"""Dimensions of a vision-language model, read from its Hugging Face config."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from aim_cost.checks import mapping, one_of
from aim_cost.errors import SpecError
from aim_cost.files.json_text import json_tree
from aim_cost.files.text import text_of
from aim_cost.models.config import MOST_TOKENS, Section, bounded
from aim_cost.models.families import FAMILIES, Family
from aim_cost.models.hub import hub_config_file, is_hub_name
from aim_cost.models.image_rule import ImageRule
from aim_cost.models.linear import Linear
from aim_cost.models.parts import read_parts
from aim_cost.models.pooling import Pooling
from aim_cost.models.quantization import Quantization, read_quantization
from aim_cost.models.text_spec import ACTIVATIONS, TextSpec, read_text
from aim_cost.models.towers import read_vision
from aim_cost.models.vision_spec import FrameSize, Tower

_PRESETS = resources.files("aim_cost.models") / "presets"


@dataclass(frozen=True)
class ModelSpec:
    """A vision tower, a projector of two layers, and an LLM.

    Args:
        name: how the model is called in tables.
        model_type: of the whole config, one of FAMILIES.
        vision, text: the two transformers. Qwen's towers end with a merger of their own in place of
            the projector.
        drops_first_token: the ``default`` feature selection, which drops CLIP's class token;
            ``full`` keeps it. SigLIP has none: its first patch goes.
        pooling: of video frames; None where there is none.
        checkpoint: hub name of the weights, when known.
        base_vocab_size: vocabulary of the LLM before the vision-language tokens and padding were
            added; equal to ``text.vocab_size`` when unknown. The llm-viewer convention counts it.
        image_rule: how images of any size are cut or resized; None: to one square view.
        projector_bias: whether the products of the projector have biases.
        quantization: how the weights of a quantised checkpoint are held; None where they are not.
    """

    name: str
    model_type: str
    vision: Tower
    text: TextSpec
    drops_first_token: bool
    pooling: Pooling | None
    checkpoint: str | None
    base_vocab_size: int
    image_rule: ImageRule | None = None
    projector_bias: bool = True
    quantization: Quantization | None = None

    @property
    def family(self) -> Family:
        """What all models of its model_type have in common."""
        return FAMILIES[self.model_type]

    @property
    def image_tokens(self) -> int:
        """Visual tokens of one image or crop: 729 (SigLIP), 576 (CLIP), 64 (Qwen, 224 x 224)."""
        return self.vision.output_tokens - self.drops_first_token

    @property
    def vision_linears(self) -> tuple[Linear, ...]:
        """All matrices of the tower and of the projector."""
        if self.vision.output_size is not None:
            return self.vision.linears
        hidden, path = self.text.hidden_size, "model.multi_modal_projector"
        inputs = {"linear_1": self.vision.hidden_size, "linear_2": hidden}
        return self.vision.linears + tuple(
            Linear((f"{path}.{name}",), size, hidden, self.projector_bias)
            for name, size in inputs.items()
        )

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
                fix="Give an image where the command takes one (--image HEIGHTxWIDTH or "
                "--image-tokens N), or choose another model.",
            )
        return self.pooling.tokens(self.vision.grid)

    @property
    def group_frames(self) -> int:
        """Frames encoded and merged together: a temporal patch of Qwen's, else a single frame."""
        return self.vision.group_frames

    @property
    def newline_tokens(self) -> int:
        """Tokens that follow the last frame of a video."""
        return self.family.newline_tokens

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

        Fields that it leaves out are those of the class in transformers.
        Raises: SpecError that names the unknown, contradictory or unsupported field.
        """
        if isinstance(config, Mapping):
            values = config
        else:
            path = Path(config)
            path = path / "config.json" if path.is_dir() else path
            name = name or (path.parent.name if path.name == "config.json" else path.stem)
            values = Section.load(path).values
        parts = read_parts(values)
        root, tower = parts.root, read_vision(parts.vision)
        family = FAMILIES[root.get("model_type")]
        tied = root.flag("tie_word_embeddings")
        tied = tied or (family.ties_by_text and parts.text.flag("tie_word_embeddings"))
        decoder = read_text(parts.text, tied=tied)
        _check_output_size(tower, decoder)
        keys = ("base_vocab_size", "image_pixels")
        extra = mapping(values.get("aim_cost", {}), "aim_cost", SpecError, keys=keys)
        base = extra.get("base_vocab_size", decoder.vocab_size)
        model_type, checkpoint = root.get("model_type"), values.get("_name_or_path") or None
        if checkpoint is not None and not isinstance(checkpoint, str):
            raise SpecError("_name_or_path", expected="a name", got=checkpoint, fix="Leave it out.")
        has_projector = tower.output_size is None
        if has_projector:
            root.choice("projector_hidden_act", ACTIVATIONS)
        spec = cls(
            name=name or checkpoint or model_type,
            model_type=model_type,
            vision=tower,
            text=decoder,
            drops_first_token=has_projector and _drops_first_token(root, tower, family),
            pooling=family.pooling(root, tower) if family.pooling else None,
            checkpoint=checkpoint,
            base_vocab_size=bounded(base, "aim_cost.base_vocab_size", MOST_TOKENS),
            image_rule=family.images(root, extra) if family.images else None,
            projector_bias=not has_projector or root.flag("multimodal_projector_bias"),
            quantization=read_quantization(root, parts.vision, parts.text),
        )
        if spec.quantization is not None:
            spec.quantization.require_fit((*spec.vision_linears, *decoder.linears))
        return spec


def preset_names() -> list[str]:
    """Names of the models that ship with the project."""
    return sorted(
        f.name.removesuffix(".json") for f in _PRESETS.iterdir() if f.name.endswith(".json")
    )


def preset_config(name: str) -> dict[str, Any]:
    """The Hugging Face config of a preset. Raises SpecError that lists the presets."""
    one_of(name, preset_names(), "model", SpecError)
    config: dict[str, Any] = json_tree(text_of(_PRESETS / f"{name}.json"))
    return config


def load_model_spec(name_or_path: str | Path) -> ModelSpec:
    """A preset by name, any ``config.json`` or its folder by path, or ``owner/name`` of the hub.

    Raises: SpecError, MissingLibraryError for a name of the hub without huggingface_hub.
    """
    if os.path.exists(name_or_path):  # no path at all is none that exists
        return ModelSpec.from_hf_config(name_or_path)
    name = str(name_or_path)
    if is_hub_name(name):
        return replace(ModelSpec.from_hf_config(hub_config_file(name), name=name), checkpoint=name)
    return ModelSpec.from_hf_config(preset_config(name), name=name)


def _check_output_size(vision: Tower, text: TextSpec) -> None:
    if vision.output_size not in (None, text.hidden_size):
        raise SpecError(
            "vision_config",
            expected=f"an output as wide as text_config.hidden_size = {text.hidden_size}",
            got=vision.output_size,
            fix="Correct hidden_size (Qwen2-VL) or out_hidden_size (Qwen2.5-VL, Qwen3-VL).",
        )


def _drops_first_token(config: Section, vision: Tower, family: Family) -> bool:
    """Whether the features leave the first token out: CLIP's class token, or SigLIP's first patch.

    Raises: SpecError for a list of layers, and where frames or crops are then no square.
    """
    layer, layers = config.get("vision_feature_layer"), vision.num_hidden_layers
    if not isinstance(layer, int) or isinstance(layer, bool) or not -layers - 1 <= layer <= layers:
        raise SpecError(
            "vision_feature_layer",
            expected=f"one layer between {-layers - 1} and {layers}",
            got=layer,
            fix="Lists of layers are not supported; correct the config.",
        )
    strategy = config.choice("vision_feature_select_strategy", ("default", "full"))
    drops = strategy == "default"
    if family.fills_grid and drops != bool(vision.class_tokens):
        fitting = "default" if vision.class_tokens else "full"
        raise SpecError(
            "vision_feature_select_strategy",
            expected=f"{fitting!r} for {vision.model_type}, whose features then fill a grid",
            got=strategy,
            fix="Correct the config.",
        )
    return drops
