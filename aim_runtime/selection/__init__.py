"""Choosing visual tokens before the LLM: the methods, and what several of them use.

The function of a method stands under ``@selects``. A file added to this folder is found by itself.
"""

from aim_cost.imports import import_files
from aim_runtime.selection.candidates import SELECTIONS, Candidates, Kept, selects
from aim_runtime.selection.tower import TowerAttention

__all__ = ["SELECTIONS", "Candidates", "Kept", "TowerAttention", "selects"]

import_files(__name__, __path__)
