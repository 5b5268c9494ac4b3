"""Imports at run time: lazy public names (PEP 562), every file of a folder, optional libraries."""

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from aim_cost.errors import AimError


def lazy_names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for the ``__init__`` of a package.

    Args: homes, the module of each name. A name whose module is ``package.name`` is that module.
    ``__getattr__`` raises MissingLibraryError where the module needs a library that is absent.
    """

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_optional(homes[name])
        value = module if homes[name] == f"{package}.{name}" else getattr(module, name)
        setattr(sys.modules[package], name, value)  # found without this function from now on
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return __getattr__, __dir__


def import_files(package: str, path: Iterable[str]) -> list[ModuleType]:
    """Import every file in the folder of ``package``, in the order of their names.

    Args: path, ``__path__`` of the package.
    """
    return [import_module(f"{package}.{file.name}") for file in iter_modules(path)]


EXTRAS = {
    "torch": "runtime",
    "transformers": "runtime",
    "huggingface_hub": "runtime",
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


class MissingLibraryError(AimError, ImportError):
    """A library that a call needs and that is not installed."""


def import_optional(name: str, *, otherwise: str = "") -> ModuleType:
    """The module ``name``, a library of EXTRAS or a module that imports one.

    Args: otherwise, what a user can do without the library, e.g. ``write a .csv``.
    Raises: MissingLibraryError where a library of EXTRAS is absent.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise missing_library(error, otherwise=otherwise) or error from error


def missing_library(
    error: ModuleNotFoundError, *, otherwise: str = ""
) -> MissingLibraryError | None:
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
    ways_out = [f"Run pip install 'aim-efficiency[{EXTRAS[name]}]'", otherwise]
    return MissingLibraryError(
        f"import {name}",
        expected=f"{name} installed",
        got="no such module",
        fix=f"{', or '.join(filter(None, ways_out))}.",
    )
