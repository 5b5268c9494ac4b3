"""Runs a schedule inside a transformers model: tokens are really merged and really dropped."""

from importlib import import_module
from typing import Any

_HOME = {
    "patched": "patch",
    "patch": "patch",
    "unpatch": "patch",
    "RunTrace": "trace",
    "PatchError": "errors",
    "Recorder": "spans",
    "selfcheck": "selfcheck",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``aim-runtime --help`` does not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
