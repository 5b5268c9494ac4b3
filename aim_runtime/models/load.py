"""load(): a model on a device, with its ModelSpec, from a name, a folder or a config."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from aim_cost.checks import whole
from aim_cost.files.json_text import json_tree
from aim_cost.files.text import text_of
from aim_cost.models.deepstack_vision import blocks_within
from aim_cost.models.hub import hub_config_file, is_hub_name
from aim_cost.models.model import ModelSpec, preset_config
from aim_cost.units import dtype_bytes
from aim_runtime.errors import LoadError
from aim_runtime.models import MODEL_TYPES
from aim_runtime.models.adapter import config_class
from aim_runtime.models.part import Part

WEIGHT_STD = 0.02
"""Standard deviation of random weights, the default of the configs of the LLMs."""


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, and what is known about it.

    Args:
        model: in eval mode, all of it on ``device``.
        spec: its dimensions, layers cut off included.
        config: the Hugging Face config it was built from.
        device, dtype: of the weights.
        source: hub name or folder of the checkpoint (tokenizer, preprocessing); None for a config
            without one.
    """

    model: PreTrainedModel
    spec: ModelSpec
    config: PreTrainedConfig
    device: torch.device
    dtype: str
    source: str | None


def default_device() -> str:
    """``cuda`` where there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load(
    name_or_path_or_config: str | Path | Mapping[str, Any],
    device: str | torch.device | None = None,
    dtype: str = "bfloat16",
    random_weights: bool = False,
    layers: int | None = None,
    seed: int = 0,
    vision_layers: int | None = None,
) -> Loaded:
    """Load a checkpoint, or build a model with random weights on the device itself.

    The config's model_type, one of MODEL_TYPES, chooses the class.

    Args:
        name_or_path_or_config: a preset (``llava-onevision-qwen2-0.5b``), a hub name with a slash,
            a checkpoint folder, a ``config.json``, or a config as a dict.
        device: default ``cuda`` where there is one; ``meta`` gives shapes without data.
        random_weights: normal(0, 0.02) matrices, norms 1, biases 0, from a generator with ``seed``
            on the device, in place: no copy passes through the host.
        layers: keep only the first ``layers`` layers of the decoder, and no more of the vision
            tower, so that their shares stay about the same; random weights only.
        vision_layers: keep that many layers of the vision tower instead; random weights only.
    Checkpoints are read from safetensors and never run code of their own.
    Raises: LoadError, or SpecError for a config that is incomplete or of another kind.
    """
    dtype_bytes(dtype)
    place = place_of(device)
    fields, name, source = _resolve(name_or_path_or_config)
    if layers is not None or vision_layers is not None:
        if not random_weights:
            raise LoadError(
                "layers",
                expected="random weights when layers are cut off",
                got=layers if layers is not None else vision_layers,
                fix="Add random_weights (--random-weights), or run all layers.",
            )
        fields = cut_layers(_completed(fields), layers, vision_layers)
    spec = ModelSpec.from_hf_config(fields, name=name)
    if spec.quantization is not None:
        raise LoadError(
            "quantization_config",
            expected="weights that are not quantised",
            got=spec.quantization.label,
            fix="Take the checkpoint that it was made of, or, for random weights, remove it.",
        )
    kind = MODEL_TYPES[spec.model_type]
    if random_weights:
        config = _config(kind, fields, spec.name)
        model = _random_model(kind, config, place, getattr(torch, dtype), seed)
    else:
        pretrained: Part = _pretrained(kind, source, spec.name, getattr(torch, dtype))
        model = pretrained.to(place)
    return Loaded(model.eval(), spec, model.config, place, dtype, source)


def spec_of(
    name_or_path_or_config: str | Path | Mapping[str, Any],
    layers: int | None = None,
    vision_layers: int | None = None,
) -> ModelSpec:
    """The dimensions of what ``load`` would load, without loading it. Raises: as ``load``."""
    fields, name, _ = _resolve(name_or_path_or_config)
    if layers is not None or vision_layers is not None:
        fields = cut_layers(_completed(fields), layers, vision_layers)
    return ModelSpec.from_hf_config(fields, name=name)


def place_of(given: str | torch.device | None) -> torch.device:
    """The device, if this machine has it; the default one for None. Raises: LoadError."""
    try:
        device = torch.device(default_device() if given is None else given)
    except RuntimeError:  # what torch says of a name that it does not know
        device = None
    if device is not None and (
        device.type in ("cpu", "meta")
        or (device.type == "cuda" and (device.index or 0) < torch.cuda.device_count())
    ):
        return device
    raise LoadError(
        "device",
        expected=f"cpu, meta, or one of the {torch.cuda.device_count()} CUDA devices here",
        got=str(given),
        fix="Choose one of them, or leave it out: cuda is taken where there is one.",
    )


def _config(kind: type[PreTrainedModel], fields: Mapping[str, Any], name: str) -> PreTrainedConfig:
    given = {k: copy.deepcopy(v) for k, v in fields.items() if k != "aim_cost"}
    try:
        return config_class(kind)(**given)
    except Exception as error:  # the class has errors of its own for each kind of wrong field
        raise LoadError(
            f"config of {name}",
            expected="fields that transformers accepts",
            got=" ".join(str(error).split()),
            fix="Correct the field.",
        ) from error


def _resolve(
    given: str | Path | Mapping[str, Any],
) -> tuple[dict[str, Any], str | None, str | None]:
    """The complete config, the name for tables, and where the checkpoint is."""
    if isinstance(given, Mapping):
        return dict(given), None, given.get("_name_or_path") or None
    path, text = Path(given), str(given)
    if path.is_file():
        return _read_json(path), path.stem, None
    if path.is_dir():
        return _folder_config(text), path.resolve().name, text
    if is_hub_name(text):
        return _read_json(hub_config_file(text)), text, text
    fields = preset_config(text)
    return fields, text, fields["_name_or_path"]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json_tree(text_of(path)))
    except (OSError, ValueError, TypeError) as error:
        raise LoadError(
            path.name, expected="a config.json", got=_line(error), fix="Correct the file."
        ) from error


def _folder_config(source: str) -> dict[str, Any]:
    try:
        return dict(AutoConfig.from_pretrained(source, trust_remote_code=False).to_dict())
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and its own
        raise _unreadable(source, error) from error


def _completed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The config in the nested form, with all that its class fills in. Raises: SpecError."""
    spec = ModelSpec.from_hf_config(fields)
    full = _config(MODEL_TYPES[spec.model_type], fields, spec.name).to_dict()
    own = ("aim_cost", "_name_or_path")  # of which the class knows nothing, or forgets them
    return dict(full) | {name: fields[name] for name in own if name in fields}


def cut_layers(
    fields: Mapping[str, Any], layers: int | None = None, vision_layers: int | None = None
) -> dict[str, Any]:
    """The complete config with ``layers`` decoder layers and at most as many vision layers.

    Args: vision_layers, that many vision layers instead.
    Raises: LoadError when the model has fewer.
    """
    text = dict(fields.get("text_config") or {})
    vision = dict(fields.get("vision_config") or {})
    depth = "depth" if "depth" in vision else "num_hidden_layers"  # Qwen's towers, the others
    if layers is not None:
        available = _cut(text, "num_hidden_layers", layers, "layers", "decoder layers")
        if vision_layers is None and depth in vision:
            vision[depth] = min(layers, vision[depth])
        if layers < available:
            text.pop("layer_types", None)  # one entry a layer; the class fills it in again
    if vision_layers is not None:
        _cut(vision, depth, vision_layers, "vision_layers", "vision layers")
    deepstack = "deepstack_visual_indexes"
    if vision.get(deepstack) and depth in vision:
        vision[deepstack] = list(blocks_within(vision[deepstack], vision[depth]))
    return {**fields, "text_config": text, "vision_config": vision}


def _cut(config: dict[str, Any], field: str, layers: int, argument: str, name: str) -> int:
    """Set the number of layers, a field of ``config``; return how many there were."""
    whole(layers, argument, LoadError)
    available = whole(config.get(field), f"{name} of the model", LoadError)
    if layers > available:
        raise LoadError(
            argument,
            expected=f"at most {available}, the {name} of the model",
            got=layers,
            fix="Ask for fewer layers, or choose a larger model.",
        )
    config[field] = layers
    return available


def _random_model(
    kind: type[PreTrainedModel],
    config: PreTrainedConfig,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
) -> PreTrainedModel:
    # the class's own initialisation is skipped: it draws every matrix, slowly, and is then replaced
    with device, no_init_weights():
        model: PreTrainedModel = kind._from_config(config, dtype=dtype)
    model.tie_weights()
    if device.type != "meta":
        _fill(model, torch.Generator(device).manual_seed(seed))
    return model


@torch.no_grad()
def _fill(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Overwrite every parameter: vectors named weight are norms."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif name.endswith("weight") and parameter.ndim == 1:
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, WEIGHT_STD, generator=generator)


def _pretrained(
    kind: type[PreTrainedModel], source: str | None, name: str, dtype: torch.dtype
) -> PreTrainedModel:
    if source is None:
        raise LoadError(
            f"model {name}",
            expected="a checkpoint: a folder, a hub name or a preset",
            got="a config alone",
            fix="Add random_weights (--random-weights), or give the checkpoint's folder.",
        )
    try:
        return kind.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:  # as in _folder_config
        raise _unreadable(source, error) from error


def _unreadable(source: str, error: Exception) -> LoadError:
    return LoadError(
        f"checkpoint {source}",
        expected="a checkpoint in safetensors, local or reachable",
        got=_line(error),
        fix="Give the folder of a local copy, or use random_weights (--random-weights).",
    )


def _line(error: Exception) -> str:
    """The first sentence of what a library said."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
