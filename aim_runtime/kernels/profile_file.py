"""Writes a measured hardware profile, which aim_cost reads back."""

from typing import Any

from aim_cost.devices.hardware import HardwareProfile, Quantity
from aim_cost.files.yaml_text import yaml_text


def profile_yaml(profile: HardwareProfile) -> str:
    """The text of a profile's file; ``load_hardware`` reads the same profile back."""
    sources: dict[str, str] = {}

    def tree_of(quantity: Quantity) -> dict[str, Any]:
        key = next((key for key, text in sources.items() if text == quantity.source), None)
        key = key or f"s{len(sources) + 1}"
        sources[key] = quantity.source
        tree = {"value": quantity.value, "unit": quantity.unit, "source": key}
        return {**tree, "unsure": True} if quantity.unsure else tree

    peak: dict[str, Any] = {"flops_per_s": {}}
    for key, quantity in profile.quantities().items():
        name, _, dtype = key.partition(".")
        if dtype:
            peak[name][dtype] = tree_of(quantity)
        elif name != "release_year":
            peak[name] = tree_of(quantity)
    tree = {
        "name": profile.name,
        "title": profile.title,
        "architecture": profile.architecture,
        "release_year": tree_of(profile.release_year),
        **({"notes": profile.notes} if profile.notes else {}),
        "sources": sources,
        "peak": peak,
    }
    return yaml_text(tree, width=100)
