"""Runs a schedule inside a transformers model: tokens are really merged and really dropped."""

from aim_runtime.errors import PatchError
from aim_runtime.patch import patch, patched, unpatch
from aim_runtime.selfcheck import selfcheck
from aim_runtime.spans import Recorder
from aim_runtime.trace import RunTrace

__all__ = ["PatchError", "Recorder", "RunTrace", "patch", "patched", "selfcheck", "unpatch"]
