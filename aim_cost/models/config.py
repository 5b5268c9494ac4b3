"""Section: a part of a Hugging Face config; what is missing in it is the default of its class."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aim_cost.checks import mapping, one_of, whole
from aim_cost.errors import SpecError
from aim_cost.files.tree import read_json

MOST_SIZE = 2**20
"""The largest width, number of heads or side in pixels that is read from a config."""
MOST_LAYERS = 2**10
MOST_TOKENS = 2**31
"""The largest vocabulary and number of positions."""

_ABSENT = object()


@dataclass(frozen=True)
class Section:
    """The fields under ``name``; the root has no name. What reads a field raises SpecError.

    ``defaults`` are those of the class in transformers, for fields that the file leaves out: hub
    files leave out what equals them. A field that is ``null`` counts as left out where the class
    has None as its default, and is an error elsewhere.
    """

    values: Mapping[str, Any]
    name: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "Section":
        """The root of a ``config.json``. Raises: SpecError."""
        content = read_json(path, str(path), SpecError, fix="Correct the file.")
        return cls(mapping(content, str(path), SpecError))

    def where(self, key: str) -> str:
        """The full name of a field."""
        return f"{self.name}.{key}" if self.name else key

    def get(self, key: str) -> Any:
        """A field, or the class's default. Raises: SpecError where there is neither."""
        value = self.values.get(key, _ABSENT)
        if value is _ABSENT or (value is None and self.defaults.get(key, _ABSENT) is None):
            value = self.defaults.get(key, _ABSENT)
        if value is _ABSENT:
            raise SpecError(
                self.where(key), expected="a value", got="nothing", fix="Give the field."
            )
        return value

    def whole(self, key: str, *, most: int = MOST_SIZE) -> int:
        """A whole number from 1 to ``most``."""
        return bounded(self.get(key), self.where(key), most)

    def optional(self, key: str, *, most: int = MOST_SIZE) -> int | None:
        """The same, or None where the field is ``null``, or left out with None as the default."""
        value = self.values.get(key, self.defaults.get(key))
        return None if value is None else bounded(value, self.where(key), most)

    def flag(self, key: str) -> bool:
        """``true`` or ``false``."""
        value = self.get(key)
        if isinstance(value, bool):
            return value
        where = self.where(key)
        raise SpecError(where, expected="true or false", got=value, fix=f"Correct {where}.")

    def choice(self, key: str, names: Iterable[str]) -> str:
        """One of ``names``."""
        return one_of(self.get(key), names, self.where(key), SpecError)

    def section(self, key: str, defaults: Mapping[str, Any]) -> "Section":
        """A section inside this one, of a class with ``defaults``."""
        where = self.where(key)
        return Section(mapping(self.get(key), where, SpecError), where, defaults)


def bounded(value: object, where: str, most: int) -> int:
    """Return ``value`` if it is a whole number from 1 to ``most``. Raises: SpecError."""
    return whole(value, where, SpecError, at_most=most)
