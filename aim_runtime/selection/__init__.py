"""Choosing visual tokens before the LLM: one file a method, found by its ``@selects``.

A file added to this folder is found by itself.
"""

from importlib import import_module
from pkgutil import iter_modules

from aim_runtime.selection.candidates import SELECTIONS, Candidates, Kept, selects

__all__ = ["SELECTIONS", "Candidates", "Kept", "selects"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
