"""Runs a schedule inside a transformers model: tokens are really merged and really dropped."""

from aim_runtime.errors import PatchError
from aim_runtime.patching.patch import patch, patched, unpatch
from aim_runtime.recorder import Recorder
from aim_runtime.trace import RunTrace
from aim_runtime.validation.selfcheck import selfcheck

__all__ = ["PatchError", "Recorder", "RunTrace", "patch", "patched", "selfcheck", "unpatch"]
