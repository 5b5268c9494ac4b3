"""Questions about a clip, of six kinds, each with one answer of one word."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from aim_runtime.tiny.scenes import COLORS, NOTHING, PLACES

_SPECIAL = ("<pad>", "<bos>", "<user>", "<assistant>", "<video>", "<image>")
_WORDS = (
    *("what", "digit", "digits", "is", "color", "place", "there", "a", "how", "many"),
    *("first", "last", "yes", "no", "?"),
)
VOCABULARY = (*_SPECIAL, *_WORDS, *COLORS, *map(str, range(10)), *PLACES)
"""Word level; a word's id is its place."""

WORD_ID = {word: index for index, word in enumerate(VOCABULARY)}
QUESTION_WORDS = 5

Ints = NDArray[np.int64]
Question = tuple[str, str]
_COLOR_NAMES = tuple(COLORS)


def _once(values: Ints) -> Ints:
    """The values that one frame alone shows."""
    found, counts = np.unique(values[values != NOTHING], return_counts=True)
    once: Ints = found[counts == 1]
    return once


def _digit_of_color(digit: Ints, color: Ints, place: Ints, rng: np.random.Generator) -> Question:
    asked = rng.choice(_once(color))
    return f"what digit is {_COLOR_NAMES[asked]} ?", str(digit[color == asked][0])


def _color_of_digit(digit: Ints, color: Ints, place: Ints, rng: np.random.Generator) -> Question:
    asked = rng.choice(_once(digit))
    return f"what color is {asked} ?", _COLOR_NAMES[color[digit == asked][0]]


def _place_of_digit(digit: Ints, color: Ints, place: Ints, rng: np.random.Generator) -> Question:
    asked = rng.choice(_once(digit))
    return f"what place is {asked} ?", PLACES[place[digit == asked][0]]


def _exists(digit: Ints, color: Ints, place: Ints, rng: np.random.Generator) -> Question:
    there = np.unique(digit[digit != NOTHING])
    yes = bool(rng.integers(2))
    asked = rng.choice(there if yes else np.setdiff1d(np.arange(10), there))
    return f"is there a {asked} ?", "yes" if yes else "no"


def _first_last(digit: Ints, color: Ints, place: Ints, rng: np.random.Generator) -> Question:
    shown = digit[digit != NOTHING]
    if rng.integers(2):
        return "what digit is first ?", str(shown[0])
    return "what digit is last ?", str(shown[-1])


def _count_color(digit: Ints, color: Ints, place: Ints, rng: np.random.Generator) -> Question:
    # a colour that is there half of the time, so that the answer is not mostly 0
    there = color[color != NOTHING]
    asked = rng.choice(there) if rng.integers(2) else rng.integers(len(COLORS))
    return f"how many {_COLOR_NAMES[asked]} digits ?", str(int((color == asked).sum()))


KINDS: dict[str, Callable[[Ints, Ints, Ints, np.random.Generator], Question]] = {
    "digit_of_color": _digit_of_color,
    "color_of_digit": _color_of_digit,
    "place_of_digit": _place_of_digit,
    "exists": _exists,
    "first_last": _first_last,
    "count_color": _count_color,
}


def can_ask(kind: str, digit: Ints, color: Ints) -> bool:
    """Whether a clip has an unambiguous question of that kind, whatever chance then picks."""
    if kind == "digit_of_color":
        return len(_once(color)) > 0
    if kind in ("color_of_digit", "place_of_digit"):
        return len(_once(digit)) > 0
    shown = np.unique(digit[digit != NOTHING])
    # "is there" needs a digit that is not
    return len(shown) > 0 and (kind != "exists" or len(shown) < 10)


def ask(
    kind: str, digit: Ints, color: Ints, place: Ints, rng: np.random.Generator
) -> tuple[list[int], int]:
    """A question of a kind about one clip: digit, color, place [frames].

    Returns: the ids of its QUESTION_WORDS words, and the id of the answer.
    """
    question, answer = KINDS[kind](digit, color, place, rng)
    return [WORD_ID[word] for word in question.split()], WORD_ID[answer]
