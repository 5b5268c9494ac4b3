"""The language of schedules: how the parts of a schedule are written, read and refused.

A schedule is one line of text, e.g. ``merge 0.25, prune linear:14:22 score=random``::

    schedule = "none" | part { "," part }
    part     = name amount { word }
    amount   = value | unit ":" value
    word     = name "=" value

``Schedule.parse`` splits the parts. Each part lists its ``AMOUNTS`` and ``WORDS``, and ``Part``
reads and writes them. Older forms are read too, never written: an underscore for a hyphen, a
unit's former name, ``/random`` for `` score=random``, ``/inject:8`` for `` inject=8``, and
``16:4-20`` for ``16 layers=4-20``. The whole language, with examples: docs/schedules.md.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar, Self

from aim_cost.checks import number
from aim_cost.errors import ScheduleError


@dataclass(frozen=True)
class Piece:
    """The characters from ``start`` to ``end`` of a ``whole`` text that came from ``where``."""

    whole: str
    where: str
    start: int
    end: int

    @classmethod
    def of(cls, text: str, where: str) -> "Piece":
        """The whole of a text."""
        return cls(text, where, 0, len(text))

    @property
    def text(self) -> str:
        """The characters, without space around them."""
        return self.whole[self.start : self.end].strip()

    def split(self, pattern: str, *, once: bool = False) -> list["Piece"]:
        """The pieces between the matches of ``pattern``, or around the first match alone."""
        matches = re.compile(pattern).finditer(self.whole[: self.end], self.start)
        places = [match.span() for match in matches][: 1 if once else None]
        starts = [self.start, *(end for _, end in places)]
        ends = [*(start for start, _ in places), self.end]
        return [Piece(self.whole, self.where, *span) for span in zip(starts, ends, strict=True)]

    def wrong(self, expected: str, fix: str) -> ScheduleError:
        """The error that points at this piece."""
        return ScheduleError(self.where, expected=expected, got=str(self), fix=fix)

    def __str__(self) -> str:
        """The piece and its place in the whole."""
        shown = repr(self.text) if self.text else "nothing"
        if self.text == self.whole.strip():
            return shown
        given = self.whole[self.start : self.end]
        place = self.start + given.index(self.text) + 1
        return f"{shown} at character {place} of {self.whole!r}"


@dataclass(frozen=True)
class Numbers:
    """One number, or several with a mark between them.

    Args:
        example: how it is written, for errors and docs.
        whole: the numbers are whole.
        between: the mark between several, e.g. ``,``; empty for a single number. Marks after the
            first are read, never written.
    """

    example: str
    whole: bool = True
    between: str = ""

    names: ClassVar[tuple[str, ...]] = ()

    def read(self, piece: Piece, form: str) -> Any:
        """The number, or the tuple of numbers. Raises: ScheduleError that shows the ``form``."""
        if self.between:
            return tuple(self._number(one, form) for one in piece.split(f"[{self.between}]"))
        return self._number(piece, form)

    def write(self, value: Any) -> str:
        """What ``read`` reads."""
        shown = [str(n) if self.whole else _digits(n) for n in (value if self.between else [value])]
        return self.between[:1].join(shown)

    def fits(self, text: str) -> bool:
        """Whether ``text`` holds several such numbers, which need no name before them."""
        parts = re.split(f"[{self.between}]", text) if self.between else ()
        return len(parts) > 1 and all(_number(part, self.whole) is not None for part in parts)

    def _number(self, piece: Piece, form: str) -> float:
        number = _number(piece.text, self.whole)
        if number is None:
            kind = "a whole number" if self.whole else "a number"
            raise piece.wrong(f"{kind}, as in {form}", "Correct the number.")
        return number


@dataclass(frozen=True)
class OneOf:
    """One of some names.

    Args:
        meanings: the names and what each says, in one sentence.
        listed_by: the command that lists the names, where they are a registry's.
    """

    meanings: Mapping[str, str]
    listed_by: str = ""

    @property
    def names(self) -> dict[str, str]:
        """The names in the language, and as the field holds them."""
        return {_hyphens(name): name for name in self.meanings}

    @property
    def example(self) -> str:
        """All names."""
        return "|".join(self.names)

    def read(self, piece: Piece, form: str) -> str:
        """The name as the field holds it. Raises: ScheduleError that lists the names."""
        name = _hyphens(piece.text)
        if name not in self.names:
            raise piece.wrong(form, nearest(name, {name: name for name in self.names}))
        return self.names[name]

    def write(self, value: Any) -> str:
        """What ``read`` reads."""
        return _hyphens(value)

    def fits(self, text: str) -> bool:
        """Whether ``text`` is one of the names."""
        return _hyphens(text) in self.names


@dataclass(frozen=True)
class Word:
    """The name of a part's field in the language: ``name=value``.

    Args:
        name: empty for an amount that is a bare number.
        field: the field of the part's dataclass.
        value: how the value is written.
        meaning: what it says, in one sentence.
        formerly: the name in older forms, where it was another.
    """

    name: str
    field: str
    value: Numbers | OneOf
    meaning: str
    formerly: str = ""

    sign: ClassVar[str] = "="

    def written(self, value: str) -> str:
        """The word with this value."""
        return f"{self.name}{self.sign}{value}" if self.name else value

    @property
    def form(self) -> str:
        """The word with an example of its value, or with all of them."""
        return self.written(self.value.example)

    def is_called(self, name: str) -> bool:
        """Whether ``name`` is the name, or the former one."""
        return _hyphens(name) in (self.name, self.formerly or self.name)


class Amount(Word):
    """How much stays or goes: ``name:value``, or a bare number."""

    sign = ":"


class Part:
    """A part of a schedule: a dataclass with one amount, and words that have defaults."""

    AMOUNTS: ClassVar[tuple[Amount, ...]]
    WORDS: ClassVar[tuple[Word, ...]]

    @classmethod
    def parse(cls, text: str, where: str = "schedule") -> Self:
        """Read what follows the part's name: the inverse of ``label``.

        Raises: ScheduleError that points at the wrong word and says what may stand there.
        """
        return cls.read(Piece.of(text, where))

    @classmethod
    def read(cls, piece: Piece) -> Self:
        """``parse`` for a piece of a longer text."""
        amount, *rest = piece.split(r"/|\s+(?=[^\W\d])")  # at a slash, or at space before a letter
        unit, *after = amount.split(":", once=True)
        if after and not unit.text[:1].isalpha():  # the older 16:4-20
            amount, rest = unit, [*after, *rest]
        found: dict[str, tuple[Word, Piece]] = {}
        for word, value in (cls._amount(amount), *map(cls._word, rest)):
            if word.field in found:
                said = found[word.field][1].text
                raise value.wrong(f"{word.name} once", f"It is {said} already; keep one.")
            found[word.field] = word, value
        fields = {
            field: word.value.read(value, word.form) for field, (word, value) in found.items()
        }
        try:
            return cls(**fields)
        except ScheduleError as error:  # of the dataclass, e.g. a ratio above 1
            field = re.sub(r"^\w+\.|\[\d+\]$", "", error.where)
            _, wrong = found.get(field, (None, piece))
            raise ScheduleError(
                f"{piece.where}: {error.where}",
                expected=error.expected,
                got=f"{error.got} in {wrong}",
                fix=error.fix,
            ) from None

    @classmethod
    def _amount(cls, piece: Piece) -> tuple[Word, Piece]:
        """The amount that a piece names, and its value."""
        unit, *value = piece.split(":", once=True)
        for word in cls.AMOUNTS:
            if value and word.name and word.is_called(unit.text):
                return word, value[0]
            if not (value or word.name or piece.text[:1].isalpha()) and piece.text:
                return word, piece
        raise piece.wrong(f"an amount such as {cls.amounts()}", "Write one of these.")

    @classmethod
    def _word(cls, piece: Piece) -> tuple[Word, Piece]:
        """The word that a piece names, and its value."""
        is_older = piece.whole[piece.start - 1] in "/:"
        name, *value = piece.split("[=:]" if is_older else "=", once=True)
        for word in cls.WORDS:
            if value and word.is_called(name.text):
                return word, value[0]
            if not value and word.value.fits(piece.text):
                if is_older:
                    return word, piece
                raise piece.wrong(word.form, f"Write {word.written(piece.text)}.")
        if not cls.WORDS:
            raise piece.wrong("nothing after the amount", "Leave it out.")
        names = {word.name: word.written("") for word in cls.WORDS}
        names |= {each: word.written(each) for word in cls.WORDS for each in word.value.names}
        raise piece.wrong(cls.words(), nearest(name.text, names))

    @classmethod
    def amounts(cls) -> str:
        """The forms of the amount, e.g. ``0.25, frame:24 or passes:98,49,25``."""
        return _or(word.form for word in cls.AMOUNTS)

    @classmethod
    def words(cls) -> str:
        """The forms of the words, e.g. ``layers=4-20 or attention=proportional|plain``."""
        return _or(word.form for word in cls.WORDS)

    def _require_one_amount(self, example: str) -> None:
        """Raises: ScheduleError unless exactly one amount is given; ``example`` mends it."""
        names = [word.field for word in self.AMOUNTS]
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ScheduleError(
                type(self).__name__.lower(),
                expected=f"exactly one of {', '.join(names)}",
                got=", ".join(given) or "none",
                fix=f"Keep one, e.g. {example}.",
            )

    def label(self) -> str:
        """The canonical text, which ``parse`` reads; words that have their default are left out."""
        values = [(word, getattr(self, word.field)) for word in (*self.AMOUNTS, *self.WORDS)]
        said = [
            word.written(word.value.write(value))
            for word, value in values
            if value != getattr(type(self), word.field, None)
        ]
        return " ".join(said)


def _number(text: str, whole: bool) -> float | None:
    """The number that ``text`` says, or None."""
    found = number(text)
    if found is None or not whole:
        return found
    with suppress(ValueError):
        return int(text)  # exactly: a float has 53 bits
    return int(found) if found.is_integer() else None  # 24.0 and 2.4e1 are whole


def _digits(number: float) -> str:
    """The fewest digits that give the same float again."""
    return repr(float(number)).removesuffix(".0")


def _hyphens(name: str) -> str:
    return name.replace("_", "-")


def nearest(text: str, names: Mapping[str, str]) -> str:
    """How to mend a word that is none of ``names``: by what the nearest of them stands for."""
    near = get_close_matches(_hyphens(text), names, n=1)
    return f"Did you mean {names[near[0]]}?" if near else "Write one of these."


def _or(forms: Iterable[str]) -> str:
    *most, last = forms
    return f"{', '.join(most)} or {last}" if most else last
