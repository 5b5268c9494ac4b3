"""Changes to a model that can be undone, in the opposite order."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import nn


class Changes(ExitStack):
    """Hooks and attributes set on modules; ``close`` restores what was there before."""

    def hook(self, register: Callable[..., Any], hook: Callable[..., Any]) -> None:
        """Register a hook that gets keywords, with e.g. ``module.register_forward_hook``."""
        self.callback(register(hook, with_kwargs=True).remove)

    def replace(self, owner: nn.Module, name: str, value: Any) -> None:
        """Set an attribute of this module alone."""
        if name in vars(owner):  # somebody else has replaced it already
            self.callback(setattr, owner, name, vars(owner)[name])
        else:
            self.callback(delattr, owner, name)
        setattr(owner, name, value)
