"""Optional libraries: which extra of this package brings each, and the error where it is absent."""

from importlib import import_module
from types import ModuleType

from aim_cost.errors import AimError

EXTRAS = {
    "torch": "runtime",
    "transformers": "runtime",
    "safetensors": "runtime",
    "packaging": "runtime",
    "PIL": "runtime",
    "av": "runtime",
    "pyarrow": "parquet",
    "ray": "ray",
    "sklearn": "tiny",
    "scipy": "tiny",
}
"""The extra of each library, by the name that it is imported by."""


class MissingLibraryError(AimError):
    """A library that a call needs and that is not installed."""


def import_optional(name: str) -> ModuleType:
    """The library ``name``, one of EXTRAS. Raises: MissingLibraryError where it is absent."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise missing_library(error) or error from error


def missing_library(error: ModuleNotFoundError) -> MissingLibraryError | None:
    """What to tell a user whose call met ``error``; None for a module that no extra brings.

    Libraries that import lazily raise an error of their own from the one that names the module.
    """
    cause: BaseException | None = error
    names = []
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError) and cause.name:
            names.append(cause.name.partition(".")[0])
        cause = cause.__cause__
    name = next((name for name in reversed(names) if name in EXTRAS), None)
    if name is None:
        return None
    return MissingLibraryError(
        f"import {name}",
        expected=f"{name} installed",
        got="no such module",
        fix=f"Run pip install 'aim-efficiency[{EXTRAS[name]}]'.",
    )
