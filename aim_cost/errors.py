"""The errors a user can meet: each says where, what was expected, what came, and the way out."""

from functools import partial
from typing import Any

_MOST_CHARACTERS = 500
_MOST_ADVISED = 900


class AimError(Exception):
    """Base of all errors caused by input. The command lines print it on one line and exit with 2.

    Args:
        where: the field, flag, file or call that is wrong.
        expected: what would have been right.
        got: what was there instead; shown as ``repr`` unless it is a string.
        fix: the way out, as an instruction.
    """

    def __init__(self, where: str, *, expected: str, got: object, fix: str) -> None:
        self.where, self.expected, self.got, self.fix = where, expected, got, fix
        # what is expected, and the way out, may quote a name from a file
        advice = [_short(part, _MOST_ADVISED) for part in (expected, fix)]
        text = f"{_short(where)}: expected {advice[0]}, got {_shown(got)}. {advice[1]}"
        super().__init__("".join(map(_printable, text)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its four parts: it may be raised in another process."""
        parts = partial(type(self), expected=self.expected, got=self.got, fix=self.fix)
        return parts, (self.where,)


def _shown(got: object) -> str:
    """What came, in at most _MOST_CHARACTERS."""
    try:
        return _short(got if isinstance(got, str) else repr(got))
    except (ValueError, RecursionError):  # a number of thousands of digits, a tree too deep
        return f"a {type(got).__name__} too long to show"


def _short(text: str, most: int = _MOST_CHARACTERS) -> str:
    if len(text) <= most:
        return text
    return f"{text[:most]}... ({len(text)} characters)"


def _printable(character: str) -> str:
    """The character where a terminal shows it; a space for a line's end, an escape for others."""
    if character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode("ascii")


class SpecError(AimError):
    """A model, workload or execution that is incomplete or contradicts itself."""


class ScheduleError(AimError):
    """A schedule that is malformed, or does not fit the model or the workload."""


class ProfileError(AimError):
    """A hardware profile that is malformed, unknown, or lacks the number that is needed."""


class OutputError(AimError):
    """A file or folder that cannot be written."""


class InfeasibleError(AimError):
    """Limits that no schedule keeps."""
