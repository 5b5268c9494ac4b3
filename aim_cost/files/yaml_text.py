"""YAML as values, and values as YAML.

YAML is read by the core schema of YAML 1.2. A plain scalar that YAML 1.1 reads in another way
(``014`` as 12, ``14:22`` as 862, ``yes`` as true) is refused, and so is what no file of ours needs:
a key that stands there twice, an alias, a tag, a number that is not finite. A number without a
point, ``1e-3``, is text to YAML 1.1 and a number here.
"""

import re
from collections.abc import Iterable
from typing import Any

import yaml

from aim_cost.files.limits import DEEPEST, TOO_DEEP, bounded, fraction, whole_number

_PARSER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_YAML_1_1: Any = yaml.resolver.Resolver()
_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_OCTAL = re.compile(r"0o[0-7]+")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_FRACTION = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def yaml_tree(text: str) -> Any:
    """What YAML says; None for an empty text. Raises: ValueError."""
    try:
        return _Tree().read(yaml.parse(text, Loader=_PARSER))
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def yaml_text(tree: Any, **options: Any) -> str:
    """The YAML of plain values, which ``yaml_tree`` and YAML 1.1 read back.

    Args: options, of ``yaml.dump``.
    """
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, **options)
    return text


class _Dumper(yaml.SafeDumper):
    """The safe dumper, but text that YAML 1.2 reads as a number gets quotes too."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_NUMBER = f"(?:{_FRACTION.pattern}|{_OCTAL.pattern})$"
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_NUMBER), list("-+.0123456789"))


class _Tree:
    """The values that the events of one document build, without recursion."""

    def __init__(self) -> None:
        self.root: list[Any] = []
        self.open: list[list[Any]] = [self.root]
        """Values of each collection that has begun, keys among them."""
        self.keys: list[set[str] | None] = [None]
        """Keys of each of them so far; None for a list."""

    def read(self, events: Iterable[yaml.Event]) -> Any:
        for event in events:
            match event:
                case yaml.AliasEvent():
                    raise ValueError(f"the alias *{event.anchor} in {_line(event)}: write it out")
                case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                    self._begin(event)
                case yaml.MappingEndEvent():
                    values, _ = self.open.pop(), self.keys.pop()
                    self._add(dict(zip(values[::2], values[1::2], strict=True)), event)
                case yaml.SequenceEndEvent():
                    values, _ = self.open.pop(), self.keys.pop()
                    self._add(values, event)
                case yaml.ScalarEvent():
                    self._add(_scalar(event), event)
        if len(self.root) > 1:
            raise ValueError("several documents: keep one")
        return self.root[0] if self.root else None

    def _begin(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        _refuse_tag(event)
        if len(self.open) > DEEPEST:
            raise ValueError(TOO_DEEP)
        self.open.append([])
        self.keys.append(set() if isinstance(event, yaml.MappingStartEvent) else None)

    def _add(self, value: Any, event: yaml.Event) -> None:
        keys, values = self.keys[-1], self.open[-1]
        if keys is not None and len(values) % 2 == 0:
            if not isinstance(value, str):
                raise ValueError(f"{value!r} as a key in {_line(event)}: put quotes around it")
            if value in keys:
                raise ValueError(f"the key {value!r} twice, again in {_line(event)}")
            keys.add(value)
        values.append(value)


def _scalar(event: yaml.ScalarEvent) -> Any:
    _refuse_tag(event)
    text = event.value
    if event.style:  # quotes, or a block of text
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} in {_line(event)}, which is no finite number")
    if _WHOLE.fullmatch(text) or _FRACTION.fullmatch(text) or _HEXADECIMAL.fullmatch(text):
        if not _LEADING_ZERO.fullmatch(text):
            return _number(text, event)
    elif not _OCTAL.fullmatch(text) and _as_yaml_1_1(text) == text:
        return text
    raise ValueError(
        f"{text} in {_line(event)}, which YAML 1.1 reads as {_as_yaml_1_1(text)!r} and YAML 1.2 as "
        f"{_as_yaml_1_2(text)!r}: write a number in plain digits, true or false, or put quotes "
        "around text"
    )


def _number(text: str, event: yaml.Event) -> int | float:
    try:
        if _HEXADECIMAL.fullmatch(text):
            return bounded(int(text, 16), text)
        return whole_number(text) if _WHOLE.fullmatch(text) else fraction(text)
    except ValueError as error:
        raise ValueError(f"{error}, in {_line(event)}") from error


def _as_yaml_1_1(text: str) -> Any:
    tag = _YAML_1_1.resolve(yaml.ScalarNode, text, (True, False))
    if tag == "tag:yaml.org,2002:str":
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return tag.rpartition(":")[2]  # the sign of a merge, or a date that no calendar has


def _as_yaml_1_2(text: str) -> Any:
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    return int(text) if _LEADING_ZERO.fullmatch(text) else text


def _refuse_tag(event: Any) -> None:
    if event.tag is not None:
        raise ValueError(f"the tag {event.tag} in {_line(event)}: leave it out")


def _line(event: Any) -> str:
    return f"line {event.start_mark.line + 1}"
