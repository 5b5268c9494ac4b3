"""aim-runtime selfcheck: checks that this device computes right, and measures its peak rates."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from aim_cost.cli.options import FormatOption
from aim_cost.files import make_folder, write_atomically
from aim_cost.render import Format, Row, console, table, to_csv
from aim_runtime.cli.options import DeviceOption

if TYPE_CHECKING:
    from aim_runtime.validation.device_check import Check
    from aim_runtime.validation.selfcheck import SelfCheck


def selfcheck(
    vectors: Annotated[
        Path | None,
        typer.Option(help="Recorded outputs, in the format of prefill_prune_*.safetensors."),
    ] = None,
    device: DeviceOption = None,
    minutes: Annotated[
        float,
        typer.Option(min=0, help="Begin no further check of the device after so many minutes."),
    ] = 5,
    out: Annotated[
        Path | None, typer.Option(help="Write a .json after each check; Ctrl-C keeps it.")
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Check that this device computes right (else exit status 1), and measure its peak rates.

    Dropping against masking, with these versions; attention by each backend, the score's kernel,
    patched, captured and repeated prefills on this device; its GEMM and copy rates.
    """
    from aim_runtime.errors import MeasurementError
    from aim_runtime.models.load import place_of
    from aim_runtime.validation.device_check import device_checks
    from aim_runtime.validation.selfcheck import selfcheck as run_selfcheck

    place = place_of(device)
    if place.type == "meta":
        raise MeasurementError(
            "device", expected="one that computes", got="meta", fix="Take cpu or cuda."
        )
    if out is not None:
        make_folder(out.parent)
    result, checks = run_selfcheck(vectors, device=str(place)), []
    for check in device_checks(place, seconds=60 * minutes):
        checks.append(check)
        if out is not None:
            tree = json.dumps(_tree(result, checks), indent=2)
            write_atomically(out, (tree + "\n").encode())
    if form is Format.json:
        print(json.dumps(_tree(result, checks), indent=2))
    elif form is Format.csv:
        print(to_csv([check.to_row() for check in checks]))
    else:
        console().print(_selfcheck_table(result, _passed(result, checks)))
        console().print(_device_table(str(place), checks))
    sys.exit(0 if _passed(result, checks) else 1)


def _passed(result: "SelfCheck", checks: "Sequence[Check]") -> bool:
    """Whether nothing is wrong; facts without a right answer are not."""
    return result.passed and all(check.passed is not False for check in checks)


def _tree(result: "SelfCheck", checks: "Sequence[Check]") -> Row:
    """Everything as plain data, for JSON."""
    device = {"device": [check.to_row() for check in checks]} if checks else {}
    return {**result.to_dict(), "passed": _passed(result, checks), **device}


def _device_table(device: str, checks: "Sequence[Check]") -> RenderableType:
    verdicts = {True: "right", False: "WRONG", None: ""}
    lines = [(check.name, check.got, verdicts[check.passed]) for check in checks]
    note = "No verdict: a fact, or nothing to check here."
    for check in checks:
        if check.passed is False:
            note += f" {check.name}: expected {check.expected}."
    columns = ("check", "got", "verdict")
    return table(f"This device: {device}", columns, lines, note)


def _selfcheck_table(result: "SelfCheck", passed: bool) -> RenderableType:
    from aim_runtime.validation.selfcheck import LOGIT_TOLERANCE

    lines = [
        (
            name,
            "equal" if check.kept_sets_equal else "DIFFER",
            "not finite"
            if check.max_logit_difference is None
            else f"{check.max_logit_difference:.1e}",
            "equal" if check.greedy_tokens_equal else "DIFFER",
        )
        for name, check in result.checks.items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    note = f"{'Passed' if passed else 'FAILED'}; logits may differ by " + (
        f"{LOGIT_TOLERANCE:.0e}. {versions}."
    )
    columns = ("check", "kept sets", "largest logit difference", "greedy tokens")
    return table("Physical drop against the mask-based reference", columns, lines, note)
