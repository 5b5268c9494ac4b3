"""campaign.json: the rows, kernel tables and steps of a campaign in one file."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aim_cost.files import write_atomically
from aim_cost.text_files.json_text import json_tree
from aim_cost.text_files.text import text_of
from aim_runtime.campaigns.predictions_file import utc_now
from aim_runtime.campaigns.setting import Setting
from aim_runtime.campaigns.step import KernelStep, Step
from aim_runtime.errors import MeasurementError
from aim_runtime.measurement.environment import GpuState
from aim_runtime.measurement.row_file import replaced, require_same_software
from aim_runtime.measurement.row_key import Row, RowKey

CAMPAIGN = "campaign.json"
_FORMAT = "aim-campaign-1"
RUNNING, DONE, FAILED, STOPPED = "running", "done", "failed", "stopped"
"""What a step of the file can be; one that was killed stays ``running``."""
_OF_ENVIRONMENT = ("commit", "torch", "transformers", "triton", "cudnn", "driver")


class BudgetSpent(Exception):
    """The minutes of a call are over in the middle of a step."""


class CampaignFile:
    """The file of a folder, read once and written anew whenever something was measured.

    measurements/README.md describes the format. Raises: MeasurementError for another file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / CAMPAIGN
        tree = _read(self.path) if self.path.exists() else {}
        self.steps: list[Row] = tree.get("steps", [])
        self.rows: list[Row] = tree.get("rows", [])
        self.kernels: list[Row] = tree.get("kernels", [])
        for half in folder.glob(f".{CAMPAIGN}.*"):  # what a kill in the middle of a write left
            half.unlink()

    @property
    def device_name(self) -> str | None:
        """The GPU of the rows; None before there are any."""
        return self.steps[0]["device"] if self.steps else None

    def require_same_device(self, setting: Setting, environment: Row) -> None:
        """Raises: MeasurementError for another GPU or other software than that of the rows."""
        if not self.steps:
            return
        if self.device_name != setting.device_name:
            raise MeasurementError(
                f"{self.path}: device",
                expected=f"{setting.device_name}, as here",
                got=self.device_name,
                fix="Give another --out: a folder holds the rows of one GPU.",
            )
        require_same_software(self.steps[0]["environment"], environment, str(self.path))

    def is_done(self, step: Step, setting: Setting, *, retry: bool = False) -> bool:
        """Whether a step has its kernel table or all its rows, or has failed.

        Args: retry, what failed is not done.
        """
        if not retry and any(
            record["status"] == FAILED and _same(record, step, setting) for record in self.steps
        ):
            return True
        if isinstance(step, KernelStep):
            return self._kernels_of(step, setting) is not None
        known = {RowKey.of(row): row for row in self.rows}
        return all(
            (row := known.get(key)) is not None
            and (not retry if row["error"] else row["repeats"] >= step.rounds)
            for key in setting.row_keys(step)
        )

    def visits(self, key: RowKey) -> int:
        """The last visit of which there is a row, whatever the visit of ``key``; 0 without any."""
        found = (RowKey.of(row) for row in self.rows)
        return max((k.visit for k in found if replace(k, visit=key.visit) == key), default=0)

    def throttled(self, number: int) -> bool:
        """Whether the GPU held its clock down before or after a step."""
        record = self.steps[number]
        states = [GpuState(**record[name]) for name in ("before", "after") if record[name]]
        return any(state.throttled for state in states)

    def begin(
        self, step: Step, setting: Setting, environment: Row, state: GpuState, seconds: float
    ) -> int:
        """Note that a step begins. Returns: its number, for ``end`` and ``store``."""
        self.steps.append(
            {
                "step": step.to_row(),
                "status": RUNNING,
                "begun_at": utc_now(),
                "device": setting.device_name,
                "profile": setting.hardware.name,
                "dtype": setting.dtype,
                "attention_backend": setting.backend(step).value,
                "predicted_seconds": seconds,
                "seconds": None,
                "error": None,
                "before": state.to_row(),
                "after": None,
                "environment": environment,
            }
        )
        self.save()
        return len(self.steps) - 1

    def end(
        self, number: int, status: str, seconds: float, state: GpuState, error: str | None = None
    ) -> None:
        """Note how a step ended."""
        record = self.steps[number]
        record |= {"status": status, "seconds": seconds, "after": state.to_row(), "error": error}
        self.save()

    def add_kernels(self, number: int, step: KernelStep, files: dict[str, str]) -> None:
        """Keep kernel tables, the text of each by the name of its file."""
        backend = self.steps[number]["attention_backend"]
        facts = {"step_number": number, "model": step.spec.name, "attention_backend": backend}
        self.kernels.append({**facts, "frames": step.frames, "files": files})

    def store(self, number: int, end: float, now: Callable[[], float]) -> "StepStore":
        """Where step ``number`` leaves its rows; see ``StepStore``."""
        return StepStore(self, number, end, now)

    def save(self) -> None:
        parts = {"steps": self.steps, "rows": self.rows, "kernels": self.kernels}
        lines = [f'"{name}": [\n{_lines(part)}\n]' for name, part in parts.items()]
        text = f'{{"format": "{_FORMAT}",\n' + ",\n".join(lines) + "\n}\n"
        write_atomically(self.path, text.encode())

    def _kernels_of(self, step: KernelStep, setting: Setting) -> Row | None:
        for found in self.kernels:
            backend = found["attention_backend"]
            if found["model"] == step.spec.name and backend == setting.backend(step).value:
                return found
        return None


class StepStore:
    """A RowStore: the rows of one step, in the file at once.

    ``save`` raises BudgetSpent, after it has saved, when ``now`` has passed ``end``.
    """

    def __init__(
        self, file: CampaignFile, number: int, end: float, now: Callable[[], float]
    ) -> None:
        self._file, self._number, self._end, self._now = file, number, end, now
        record = file.steps[number]
        environment = record["environment"]
        self._facts = {"step_number": number, "begun_at": record["begun_at"]} | {
            name: environment.get(name) for name in _OF_ENVIRONMENT
        }

    def earlier(self) -> Sequence[Row]:
        return self._file.rows

    def save(self, rows: Sequence[Row]) -> None:
        # a row of before, kept by the measurement, keeps the facts of its own step
        mine = [row if "step_number" in row else {**row, **self._facts} for row in rows]
        self._file.rows = replaced(self._file.rows, mine)
        self._file.save()
        if self._now() >= self._end:
            raise BudgetSpent


def _same(record: Row, step: Step, setting: Setting) -> bool:
    backend = setting.backend(step).value
    return bool(record["step"] == step.to_row() and record["attention_backend"] == backend)


def _lines(rows: Sequence[Any]) -> str:
    return ",\n".join(json.dumps(row) for row in rows)


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = json_tree(text_of(path))
        if tree["format"] != _FORMAT:
            raise ValueError(f"the format {tree['format']}")
        for row in tree["rows"]:
            RowKey.of(row), row["repeats"], row["error"]
        return dict(tree)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise MeasurementError(
            str(path),
            expected=f"a campaign in the format {_FORMAT}",
            got=" ".join(str(error).split()),
            fix="Give the folder of a campaign, or another --out.",
        ) from error
