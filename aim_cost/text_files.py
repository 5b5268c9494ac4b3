"""Text files that people write, read so that nothing in them is taken for something else.

YAML is read by the core schema of YAML 1.2. A plain scalar that YAML 1.1 reads in another way
(``014`` as 12, ``14:22`` as 862, ``yes`` as true) is refused, and so is what no file of ours needs:
a key that stands there twice, an alias, a tag, a number that is not finite.
"""

import json
import re
from collections.abc import Callable, Iterable
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, cast

import yaml

from aim_cost.errors import AimError

MOST_BYTES = 64 * 2**20
DEEPEST = 50
LARGEST_NUMBER = 1e30

_PARSER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_YAML_1_1 = yaml.resolver.Resolver()
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
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def read_tree(
    file: Path | Traversable, where: str, error: type[AimError], *, fix: str, find: str = ""
) -> Any:
    """What a file holds: JSON where its name ends so, else YAML; None for an empty one.

    Args: where, what errors call the file; fix, what to do about its content; find, where to look
        for a file that is not there.
    Raises: ``error``.
    """
    read = read_json if file.name.endswith(".json") else read_yaml
    return read(file, where, error, fix=fix, find=find)


def read_json(
    file: Path | Traversable, where: str, error: type[AimError], *, fix: str, find: str = ""
) -> Any:
    """``read_tree`` of a file that is JSON whatever its name."""
    return _read(file, json_tree, "JSON", where, error, fix, find)


def read_yaml(
    file: Path | Traversable, where: str, error: type[AimError], *, fix: str, find: str = ""
) -> Any:
    """``read_tree`` of a file that is YAML whatever its name."""
    return _read(file, yaml_tree, "YAML", where, error, fix, find)


def _read(
    file: Path | Traversable,
    parse: Callable[[str], Any],
    kind: str,
    where: str,
    error: type[AimError],
    fix: str,
    find: str,
) -> Any:
    try:
        text = text_of(file)
        return parse(text) if text.strip() else None
    except OSError as cause:
        got = cause.strerror or str(cause)
        fix = f"Correct the path{f'; {find}' if find else ''}."
        raise error(where, expected="a readable file", got=got, fix=fix) from cause
    except ValueError as cause:
        raise error(where, expected=kind, got=str(cause), fix=fix) from cause


def text_of(file: Path | Traversable) -> str:
    """The text of a file: UTF-8, or UTF-16 with a byte order mark, as spreadsheets write it.

    Raises: OSError; ValueError for a file that is no text or is above MOST_BYTES.
    """
    with file.open("rb") as opened:
        content = opened.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES // 2**20} MiB")
    if content.startswith(b"PK\x03\x04"):
        raise ValueError("a zip archive, as workbooks are (.xlsx, .ods): save it as CSV")
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        byte = content[error.start : error.start + 1].hex()
        raise ValueError(
            f"the byte 0x{byte} at {error.start}, which is no text in UTF-8: save it as UTF-8"
        ) from error


def json_tree(text: str) -> Any:
    """What JSON says. Raises: ValueError."""
    try:
        tree = json.loads(
            text,
            object_pairs_hook=_mapping,
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check_depth(tree)
    if _SURROGATE.search(text):
        _check_characters(tree)
    return tree


def yaml_tree(text: str) -> Any:
    """What YAML says; None for an empty text. Raises: ValueError."""
    try:
        return _Tree().read(yaml.parse(text, Loader=_PARSER))
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


_TOO_DEEP = f"more than {DEEPEST} levels, one inside the other"


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
            raise ValueError(_TOO_DEEP)
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
            return _bounded(int(text, 16), text)
        return _whole(text) if _WHOLE.fullmatch(text) else _finite(text)
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


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} twice")
    return found


def _whole(text: str) -> int:
    if len(text) > 40:  # Python reads no more than some thousand digits
        raise ValueError(f"{text[:40]}..., which is above {LARGEST_NUMBER:.0e}")
    return cast(int, _bounded(int(text), text))


def _finite(text: str) -> float:
    return float(_bounded(float(text), text))


def _bounded(number: float, text: str) -> float:
    if -LARGEST_NUMBER <= number <= LARGEST_NUMBER:  # so is no NaN
        return number
    raise ValueError(f"{text[:40]}, which is no number up to {LARGEST_NUMBER:.0e}")


def _check_depth(tree: Any) -> None:
    level = [tree]
    for _ in range(DEEPEST + 1):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    if level:
        raise ValueError(_TOO_DEEP)


def _check_characters(tree: Any) -> None:
    """Half of a character that JSON writes in two halves could not be printed."""
    try:
        json.dumps(tree, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half a character, {error.object[error.start]!a}") from None
