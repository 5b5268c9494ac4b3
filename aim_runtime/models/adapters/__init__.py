"""One file for each family of vision-language models: its adapter, which is found by itself."""

from inspect import isclass

from aim_cost.imports import import_files
from aim_runtime.models.adapter import Adapter

ADAPTERS: tuple[type[Adapter], ...] = tuple(
    found
    for module in import_files(__name__, __path__)
    for found in vars(module).values()
    if isclass(found) and issubclass(found, Adapter) and found.__module__ == module.__name__
)
"""The adapters that the files of this folder define, in the order of the files' names."""
