"""The commands answer what they answered before: numbers of every command, kept in full."""

from typing import Any

import pytest

from scripts import golden


@pytest.mark.parametrize("command", golden.COMMANDS)
def test_answers_are_those_kept(command: str) -> None:
    """After a change that is meant to change them: ``python scripts/golden.py``."""
    assert list(golden.differences(golden.answers(command), golden.kept(command))) == []


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
    assert len(list(golden.differences([found], [kept]))) == number
    assert golden.settled(found, kept) is (found if number else kept)
