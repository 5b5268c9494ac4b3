"""campaign.json: the rows, kernel tables and steps of a campaign in one file."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aim_cost.checks import whole
from aim_cost.errors import AimError
from aim_cost.files import write_atomically
from aim_cost.files.json_text import json_tree
from aim_cost.files.text import text_of
from aim_cost.render import Row
from aim_runtime.campaigns.predictions_file import utc_now
from aim_runtime.campaigns.record import KernelTables, Status, StepRecord
from aim_runtime.campaigns.setting import Setting
from aim_runtime.campaigns.step import KernelStep, Step
from aim_runtime.errors import MeasurementError
from aim_runtime.measurement.decode import Decoding
from aim_runtime.measurement.environment import Environment, GpuState
from aim_runtime.measurement.measurement import Measurement
from aim_runtime.measurement.origin import Origin
from aim_runtime.measurement.row_file import replaced, require_same_software
from aim_runtime.measurement.row_key import RowKey
from aim_runtime.measurement.run_kind import RunKind

CAMPAIGN = "campaign.json"
_FORMAT = "aim-campaign-1"

Timed = Measurement | Decoding
"""A row of a campaign; each has its origin."""


class BudgetSpent(Exception):
    """Raised when the minutes of a call are over in the middle of a step."""


class CampaignFile:
    """The file of a folder, read once and written whenever something was measured.

    measurements/README.md describes the format. Raises: MeasurementError for another file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / CAMPAIGN
        self.steps: list[StepRecord] = []
        self.rows: list[Timed] = []
        self.kernels: list[KernelTables] = []
        if self.path.exists():
            self._read()
        for half in folder.glob(
            f".{CAMPAIGN}.*"
        ):  # a temporary file that a kill in the middle of a write left
            half.unlink()

    @property
    def device_name(self) -> str | None:
        """The GPU of the rows; None before there are any."""
        return self.steps[0].device if self.steps else None

    @property
    def is_rehearsal(self) -> bool:
        """Whether the rows are those of a model's clock."""
        return any(record.environment.rehearsal for record in self.steps)

    def require_same_device(self, setting: Setting, environment: Environment) -> None:
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
        if self.is_rehearsal != setting.rehearsal:
            kinds = {True: "a rehearsal", False: "rows of a device"}
            raise MeasurementError(
                f"{self.path}: rehearsal",
                expected=f"{kinds[setting.rehearsal]}, as here",
                got=kinds[self.is_rehearsal],
                fix="Give another --out: a folder holds either the one or the other.",
            )
        require_same_software(self.steps[0].environment, environment, str(self.path))

    def is_done(self, step: Step, setting: Setting, *, retry: bool = False) -> bool:
        """Whether a step has its kernel table or all its rows, or has failed.

        Args: retry, what failed is not done.
        """
        if not retry and any(
            record.status is Status.FAILED and _same(record, step, setting) for record in self.steps
        ):
            return True
        if isinstance(step, KernelStep):
            return self._kernels_of(step, setting) is not None
        known = {row.key: row for row in self.rows}
        return all(
            (row := known.get(key)) is not None
            and (not retry if row.error else row.repeats >= step.rounds)
            for key in setting.row_keys(step)
        )

    def visits(self, key: RowKey) -> int:
        """The last visit of which there is a row, whatever the visit of ``key``; 0 without any."""
        found = (row.key for row in self.rows)
        return max((k.visit for k in found if replace(k, visit=key.visit) == key), default=0)

    def begin(
        self,
        step: Step,
        setting: Setting,
        environment: Environment,
        state: GpuState,
        seconds: float,
    ) -> int:
        """Note that a step begins. Returns: its number, for ``end`` and ``store``."""
        self.steps.append(
            StepRecord(
                step=step.key,
                status=Status.RUNNING,
                begun_at=utc_now(),
                device=setting.device_name,
                profile=setting.hardware.name,
                dtype=setting.dtype,
                attention_backend=setting.backend(step).value,
                predicted_seconds=seconds,
                seconds=None,
                error=None,
                before=state,
                after=None,
                environment=environment,
            )
        )
        self.save()
        return len(self.steps) - 1

    def end(
        self, number: int, status: Status, seconds: float, state: GpuState, error: str | None = None
    ) -> None:
        """Note how a step ended."""
        self.steps[number] = replace(
            self.steps[number], status=status, seconds=seconds, after=state, error=error
        )
        self.save()

    def add_kernels(self, number: int, step: KernelStep, files: Mapping[str, str]) -> None:
        """Keep kernel tables, the text of each by the name of its file."""
        backend = self.steps[number].attention_backend
        self.kernels.append(KernelTables(number, step.spec.name, backend, step.frames, files))

    def store(self, number: int, end: float, now: Callable[[], float]) -> "StepStore":
        """Where step ``number`` leaves its rows; see ``StepStore``."""
        return StepStore(self, number, end, now)

    def save(self) -> None:
        parts: dict[str, Sequence[StepRecord | Timed | KernelTables]] = {
            "steps": self.steps,
            "rows": self.rows,
            "kernels": self.kernels,
        }
        lines = [
            f'"{name}": [\n{_lines([one.to_row() for one in part])}\n]'
            for name, part in parts.items()
        ]
        text = f'{{"format": "{_FORMAT}",\n' + ",\n".join(lines) + "\n}\n"
        write_atomically(self.path, text.encode())

    def _kernels_of(self, step: KernelStep, setting: Setting) -> KernelTables | None:
        wanted = step.spec.name, setting.backend(step).value
        same = (one for one in self.kernels if (one.model, one.attention_backend) == wanted)
        return next(same, None)

    def _read(self) -> None:
        try:
            tree = json_tree(text_of(self.path))
            if tree["format"] != _FORMAT:
                raise ValueError(f"the format {tree['format']}")
            self.steps = [StepRecord.of(row) for row in tree["steps"]]
            self.rows = [_timed(row) for row in tree["rows"]]
            self.kernels = [KernelTables.of(row) for row in tree["kernels"]]
            self._check()
        except (AimError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise MeasurementError(
                str(self.path),
                expected=f"a campaign in the format {_FORMAT}",
                got=" ".join(str(error).split()),
                fix="Give the folder of a campaign, or another --out.",
            ) from error

    def _check(self) -> None:
        """Raises: MeasurementError, TypeError for rows and tables that no step can have made."""
        origins = [origin_of(row).step_number for row in self.rows]
        for number in origins + [table.step_number for table in self.kernels]:
            last = len(self.steps) - 1
            whole(number, "step_number", MeasurementError, at_least=0, at_most=last)
        hash(tuple(row.key for row in self.rows))  # all parts of a key are single values


class StepStore:
    """A RowStore: the rows of one step, in the file at once.

    ``save`` raises BudgetSpent, after it has saved, when ``now`` has passed ``end``.
    """

    def __init__(
        self, file: CampaignFile, number: int, end: float, now: Callable[[], float]
    ) -> None:
        self._file, self._end, self._now = file, end, now
        record = file.steps[number]
        self._origin = Origin.in_environment(number, record.begun_at, record.environment)

    def earlier(self) -> Sequence[Measurement]:
        return [row for row in self._file.rows if isinstance(row, Measurement)]

    def save(self, rows: Sequence[Timed]) -> None:
        # a row of before, kept by the measurement, keeps the origin that it has
        mine = [row if row.origin else replace(row, origin=self._origin) for row in rows]
        self._file.rows = replaced(self._file.rows, mine)
        self._file.save()
        if self._now() >= self._end:
            raise BudgetSpent


def origin_of(row: Timed) -> Origin:
    """The origin that each row of a campaign has. Raises: KeyError for a row of something else."""
    if row.origin is None:
        raise KeyError("step_number")
    return row.origin


def _timed(row: Mapping[str, Any]) -> Timed:
    kind = Decoding if RunKind(row["execution"]) is RunKind.DECODE else Measurement
    found = kind.of(row)
    origin_of(found)
    return found


def _same(record: StepRecord, step: Step, setting: Setting) -> bool:
    same_backend = record.attention_backend == setting.backend(step).value
    return same_backend and record.step == step.key


def _lines(rows: Sequence[Row]) -> str:
    return ",\n".join(json.dumps(row) for row in rows)
