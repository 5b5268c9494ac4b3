"""The commands answer what they answered before: numbers of every command, kept in full."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from scripts import golden

TOLERANCE = 1e-12
"""Relative, of numbers with a fraction: the last digits may depend on a build of numpy."""


def differences(found: Any, kept: Any, where: str = "") -> Iterator[str]:
    """Each place where two answers differ; whole numbers and words are compared exactly."""
    if isinstance(kept, dict) and isinstance(found, dict):
        for key in [*kept, *(key for key in found if key not in kept)]:
            if key in kept and key in found:
                yield from differences(found[key], kept[key], f"{where}/{key}")
            else:
                yield f"{where}/{key}: only {'kept' if key in kept else 'found'}"
    elif isinstance(kept, list) and isinstance(found, list) and len(kept) == len(found):
        for place, pair in enumerate(zip(found, kept, strict=True)):
            yield from differences(*pair, f"{where}/{place}")
    elif isinstance(kept, float) and isinstance(found, float):
        if abs(found - kept) > TOLERANCE * abs(kept):
            yield f"{where}: {found!r}, kept {kept!r}"
    elif type(found) is not type(kept) or found != kept:
        yield f"{where}: {found!r}, kept {kept!r}"


@pytest.mark.parametrize("command", golden.COMMANDS)
def test_answers_are_those_kept(command: str) -> None:
    """After a change that is meant to change them: ``python scripts/golden.py``."""
    kept = json.loads(golden.path_of(command).read_text(encoding="utf-8"))
    assert list(differences(golden.answers(command), kept)) == []


@pytest.mark.parametrize(
    ("found", "number"),
    [
        ({"flops": 11, "time_s": 0.1}, 1),
        ({"flops": 10.0, "time_s": 0.1}, 1),
        ({"flops": 10, "time_s": 0.1 * (1 + 1e-11)}, 1),
        ({"flops": 10, "time_s": 0.1 * (1 + 1e-13)}, 0),
        ({"flops": 10}, 1),
    ],
)
def test_a_difference_is_seen(found: dict[str, Any], number: int) -> None:
    kept = {"flops": 10, "time_s": 0.1}
    assert len(list(differences([found], [kept]))) == number
