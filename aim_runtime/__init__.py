"""Runs a schedule inside a transformers model: tokens are really merged and really dropped.

The public names are imported when they are first used: without torch only they fail.
"""

from typing import TYPE_CHECKING

from aim_cost.imports import lazy_names

if TYPE_CHECKING:
    from aim_runtime.errors import PatchError as PatchError
    from aim_runtime.measurement.measure import measure as measure
    from aim_runtime.models.load import load as load
    from aim_runtime.patching.patch import patch as patch
    from aim_runtime.patching.patch import patched as patched
    from aim_runtime.patching.patch import unpatch as unpatch
    from aim_runtime.prompts.video import sample_frames as sample_frames
    from aim_runtime.reduction.own import own_score as own_score
    from aim_runtime.selection.own import own_selection as own_selection
    from aim_runtime.trace import RunTrace as RunTrace
    from aim_runtime.validation.selfcheck import selfcheck as selfcheck
    from aim_runtime.validation.validate import validate as validate

_HOMES = {
    "PatchError": "aim_runtime.errors",
    "RunTrace": "aim_runtime.trace",
    "load": "aim_runtime.models.load",
    "measure": "aim_runtime.measurement.measure",
    "own_score": "aim_runtime.reduction.own",
    "own_selection": "aim_runtime.selection.own",
    "patch": "aim_runtime.patching.patch",
    "patched": "aim_runtime.patching.patch",
    "sample_frames": "aim_runtime.prompts.video",
    "selfcheck": "aim_runtime.validation.selfcheck",
    "unpatch": "aim_runtime.patching.patch",
    "validate": "aim_runtime.validation.validate",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept any name
    __getattr__, __dir__ = lazy_names(__name__, _HOMES)
