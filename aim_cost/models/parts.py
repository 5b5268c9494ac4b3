"""read_parts(): the root, the tower and the LLM of a config, in whatever form a file has them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aim_cost.checks import mapping
from aim_cost.errors import SpecError
from aim_cost.models.class_defaults import CLASS_DEFAULTS
from aim_cost.models.config import Section
from aim_cost.models.families import FAMILIES


@dataclass(frozen=True)
class Parts:
    """Three sections with the defaults of their classes.

    ``vision`` and ``text`` hold the ``model_type`` of the class that transformers builds, whether
    the file says it or not.
    """

    root: Section
    vision: Section
    text: Section


_OF_AN_LLM = ("hidden_size", "intermediate_size", "num_hidden_layers", "mm_vision_tower")


def read_parts(values: Mapping[str, Any]) -> Parts:
    """The sections of the config ``values``. Raises: SpecError that names the field.

    Files of Qwen's hub models have the fields of the LLM at the root; newer ones have them in a
    ``text_config``, which wins where both are there, as in transformers.
    """
    model_type = Section(values).choice("model_type", FAMILIES)
    family = FAMILIES[model_type]
    root = Section(values, defaults=family.defaults)
    vision = root.get("vision_config")
    if vision is None:
        vision = family.tower
    text, name = root.get("text_config"), "text_config"
    if text is None:
        flat = family.flat_text
        if not flat and any(field in values for field in _OF_AN_LLM):
            raise SpecError(
                "text_config",
                expected="the fields of the LLM in it",
                got="fields of an LLM at the root",
                fix="This is the format of the original LLaVA repositories, which transformers "
                "does not read. Give the config of a converted checkpoint, e.g. of llava-hf.",
            )
        text, name = (
            ({**values, "model_type": family.decoders[0]} if flat else {}),
            "" if flat else name,
        )
    return Parts(
        root,
        _section(vision, "vision_config", family.towers, model_type),
        _section(text, name, family.decoders, model_type),
    )


def _section(values: object, name: str, known: tuple[str, ...], outer: str) -> Section:
    """The section ``name`` of one of the ``known`` model_types, of the first where it has none."""
    fields = mapping(values, name, SpecError)
    found = fields.get("model_type", known[0])
    if found == outer and len(known) == 1:  # files of older releases repeat the outer one
        found = known[0]
    if found not in known:
        raise SpecError(
            f"{name}.model_type",
            expected=f"one that is modelled under model_type {outer!r}",
            got=repr(found),
            fix=f"Known: {', '.join(known)}. Others have ops that are not counted here.",
        )
    if fields.get("per_layer_config") is not None:
        raise SpecError(
            f"{name}.per_layer_config" if name else "per_layer_config",
            expected="layers of one size",
            got="sizes of single layers",
            fix="Such models are not counted here.",
        )
    return Section({**fields, "model_type": found}, name, CLASS_DEFAULTS[found])
