"""Section: a part of a Hugging Face config that names the field where one is missing or wrong."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aim_cost.checks import mapping, one_of, whole
from aim_cost.errors import SpecError
from aim_cost.text_files.tree import read_json

_ABSENT = object()
_FULL_CONFIG = (
    "Give the complete config: hub files omit fields that equal a class default; "
    "`AutoConfig.from_pretrained(name).to_dict()` writes them all."
)


@dataclass(frozen=True)
class Section:
    """The fields under ``name``; the root has no name. What reads a field raises SpecError."""

    values: Mapping[str, Any]
    name: str = ""

    @classmethod
    def load(cls, path: Path) -> "Section":
        """The root of a ``config.json``. Raises: SpecError."""
        content = read_json(path, str(path), SpecError, fix="Correct the file.")
        return cls(mapping(content, str(path), SpecError))

    def where(self, key: str) -> str:
        """The full name of a field."""
        return f"{self.name}.{key}" if self.name else key

    def get(self, key: str) -> Any:
        """A field that must be there."""
        value = self.values.get(key, _ABSENT)
        if value is _ABSENT:
            raise SpecError(self.where(key), expected="a value", got="nothing", fix=_FULL_CONFIG)
        return value

    def whole(self, key: str) -> int:
        """A whole number of at least 1."""
        return whole(self.get(key), self.where(key), SpecError)

    def choice(self, key: str, names: Iterable[str]) -> str:
        """One of ``names``."""
        return one_of(self.get(key), names, self.where(key), SpecError)

    def section(self, key: str) -> "Section":
        """A section inside this one."""
        where = self.where(key)
        return Section(mapping(self.get(key), where, SpecError), where)
