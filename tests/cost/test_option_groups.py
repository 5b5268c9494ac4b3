"""Groups of options: typer sees each option, the command sees the group."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from aim_cost.cli.groups import grouped
from aim_cost.cli.main import app as cost
from aim_cost.cli.options import AllPartOptions, PartOptions, PromptOptions
from aim_cost.errors import ScheduleError
from aim_cost.models.workload import Workload
from aim_cost.schedules.schedule import PARTS, Schedule


@dataclass(frozen=True)
class Colours:
    red: Annotated[int, typer.Option("--red", help="How red.")] = 1
    names: Annotated[list[str] | None, typer.Option("--name")] = None


@dataclass(frozen=True)
class Darker(Colours):
    red: Annotated[int, typer.Option("--red", help="How red.")] = 7


@pytest.fixture
def given():
    """What the command ``paint`` was called with, and how to call it."""
    app, seen = typer.Typer(), []

    @app.command()
    @grouped
    def paint(
        *, place: Annotated[str, typer.Argument()], colours: Colours, thick: bool = False
    ) -> None:
        """Paint a place."""
        seen.append((place, colours, thick))

    @app.command()
    @grouped
    def darken(*, colours: Darker) -> None:
        seen.append(colours)

    def call(*words):
        result = CliRunner().invoke(app, words)
        return seen.pop() if result.exit_code == 0 and seen else result

    return call


def test_the_command_gets_its_group(given):
    assert given("paint", "door") == ("door", Colours(), False)
    found = given("paint", "door", "--red", "3", "--name", "a", "--name", "b", "--thick")
    assert found == ("door", Colours(3, ["a", "b"]), True)
    assert given("darken") == Darker(7)


def test_each_field_is_an_option_with_its_help_and_its_type(given):
    help_text = given("paint", "--help").stdout
    assert all(text in help_text for text in ("--red", "How red.", "--name", "Paint a place."))
    assert "7" in given("darken", "--help").stdout
    wrong = given("paint", "door", "--red", "much")
    assert wrong.exit_code == 2
    assert given("paint").exit_code == 2  # the argument is missing


def test_the_prompt_that_options_describe():
    assert PromptOptions().workload(32) == Workload(100, frames=32)
    assert PromptOptions(image_tokens=9, text_tokens=5).workload(32, 2) == Workload(
        5, image_tokens=9, batch=2
    )
    both = PromptOptions(image=["10x20", "30x40"]).workload(32)
    assert both == Workload(100, images=((10, 20), (30, 40)))
    assert PromptOptions(frames=3, frame_size="56x84").workload(32).frame_size == (56, 84)


def test_the_schedules_that_options_describe():
    assert PartOptions().one(None) == Schedule() and PartOptions().all(None) == []
    parts = AllPartOptions(merge="0.5", prune="linear:1:3", select="prompt:9")
    whole = Schedule.parse("merge 0.5, select prompt:9, prune linear:1:3")
    assert parts.one(None) == whole
    assert parts.all(["none", "merge 0.25"]) == [Schedule(), Schedule.parse("merge 0.25"), whole]
    assert PartOptions(tokens_per_frame=24).one(None) == Schedule.parse("merge frame:24")
    with pytest.raises(ScheduleError, match="no --merge beside it"):
        PartOptions(merge="0.5", tokens_per_frame=24).one(None)
    with pytest.raises(ScheduleError, match="--schedule"):
        PartOptions(merge="0.5").one("merge 0.25")


def test_every_part_of_the_language_is_an_option_of_predict():
    help_text = CliRunner().invoke(cost, ["predict", "--help"]).stdout
    assert all(f"--{name.replace('_', '-')}" in help_text for name in PARTS)
