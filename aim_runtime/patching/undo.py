"""Changes: what a patch changes on a model, undone in the opposite order."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NoReturn

from torch import nn

from aim_runtime.errors import PatchError

_REDUCE = "__reduce_ex__"  # what copy, pickle, torch.save and multiprocessing ask an object for


class Changes(ExitStack):
    """Hooks and attributes set on modules; ``close`` restores what was there before.

    A changed module is neither copied nor pickled: the copy's ``generate`` would run the weights of
    the original, and nothing would ever restore the copy.
    """

    def hook(self, register: Callable[..., Any], hook: Callable[..., Any]) -> None:
        """Register a hook that gets keywords, with e.g. ``module.register_forward_hook``."""
        self._keep_single(register.__self__)  # type: ignore[attr-defined]  # a bound method
        self.callback(register(hook, with_kwargs=True).remove)

    def replace(self, owner: nn.Module, name: str, value: Any) -> None:
        """Set an attribute of this module alone."""
        self._keep_single(owner)
        self._set(owner, name, value)

    def _set(self, owner: nn.Module, name: str, value: Any) -> None:
        if name in vars(owner):  # somebody else has replaced it already
            self.callback(setattr, owner, name, vars(owner)[name])
        else:
            self.callback(delattr, owner, name)
        setattr(owner, name, value)

    def _keep_single(self, owner: nn.Module) -> None:
        if vars(owner).get(_REDUCE) is not _refuse_copy:
            self._set(owner, _REDUCE, _refuse_copy)


def _refuse_copy(protocol: object) -> NoReturn:
    """Raises: PatchError."""
    raise PatchError(
        "model",
        expected="no copy and no pickle of a model inside its patched block",
        got="copy, pickle or torch.save",
        fix="Copy or save it before the with block or after it; inside, state_dict() and "
        "save_pretrained() work.",
    )
