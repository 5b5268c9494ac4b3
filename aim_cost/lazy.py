"""Public names of a package that import their module when they are first used (PEP 562)."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str], *, fix: str = ""
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for the ``__init__`` of a package.

    Args:
        homes: the module of each name. A name whose module is ``package.name`` is that module.
        fix: what an error adds where a module needs a library that is not installed.
    """

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            module = import_module(homes[name])
        except ModuleNotFoundError as error:
            if not fix or error.name is None or error.name.partition(".")[0] == package:
                raise
            message = f"{package}.{name}: expected {error.name}, got none installed. {fix}"
            raise ModuleNotFoundError(message, name=error.name) from error
        value = module if homes[name] == f"{package}.{name}" else getattr(module, name)
        setattr(sys.modules[package], name, value)  # found without this function from now on
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return __getattr__, __dir__
