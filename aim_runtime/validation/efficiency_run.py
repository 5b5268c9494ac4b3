"""efficiency_table(): methods on one model, run and timed with one clock, beside their prices."""

from dataclasses import dataclass
from pathlib import Path

from aim_cost.case import Case
from aim_cost.conventions.convention import EXECUTED, Convention, parse_conventions
from aim_cost.devices.hardware import HardwareProfile
from aim_cost.errors import ScheduleError
from aim_cost.models.workload import Execution, Workload
from aim_cost.render import Row
from aim_cost.schedules.executed import why_not_run
from aim_cost.studies.budget import Budget
from aim_cost.studies.compare import compare
from aim_cost.timing import Calibration
from aim_runtime.measurement.attention_backend import AttentionBackend
from aim_runtime.measurement.environment import Environment, environment
from aim_runtime.measurement.measure import measure
from aim_runtime.models.load import Loaded
from aim_runtime.reduction.importance_kernel import scoring
from aim_runtime.seams import tower_keeps_hidden_states
from aim_runtime.validation.efficiency import Efficiency

_ANY_DEVICE = "h100-sxm"
"""What a case without a device is priced on; FLOPs, tokens and bytes do not depend on it."""

_GPU_WARMUP = 2


@dataclass(frozen=True)
class EfficiencyTable:
    """What ``efficiency_table`` returns.

    Args:
        case: what was priced; its device means something where ``predicts_time`` alone.
        rows: no reduction first, then the methods as they were asked for; methods that an
            interrupt left without a single timed run are in ``waiting``.
        conventions: those asked for, in order.
        budget: what each method may cost; None where each runs with its own parameters.
        new_tokens: of the answer; the prefill gives the first.
        repeats: rounds that were asked for.
    """

    case: Case
    rows: tuple[Efficiency, ...]
    waiting: tuple[str, ...]
    conventions: tuple[Convention, ...]
    budget: Budget | None
    environment: Environment
    new_tokens: int
    repeats: int
    predicts_time: bool

    def to_rows(self) -> list[Row]:
        """A flat row for each method; speed-ups are over the first."""
        return [row.to_row(self.rows[0], predicts_time=self.predicts_time) for row in self.rows]

    def to_dict(self) -> Row:
        """Everything as plain data, for JSON."""
        return {
            "environment": self.environment.to_row(),
            "new_tokens": self.new_tokens,
            "waiting": list(self.waiting),
            "rows": self.to_rows(),
        }


def efficiency_table(
    loaded: Loaded,
    workload: Workload,
    methods: str,
    conventions: str = "all",
    *,
    equal: str | None = None,
    budget: float | None = None,
    hardware: HardwareProfile | str | None = None,
    calibration: Calibration | str | Path | None = None,
    new_tokens: int = 32,
    repeats: int = 3,
    warmup: int | None = None,
    attention: AttentionBackend | None = None,
    out: Path | None = None,
    resume: bool = False,
) -> EfficiencyTable:
    """Price methods as ``compare`` does, and run those that run, as ``measure`` does.

    Each run counts its FLOPs once, then is timed ``repeats`` times, in rounds with the others:
    prefill, then ``new_tokens`` - 1 tokens of greedy decoding.

    Args:
        methods, conventions, equal, budget: as of ``compare``.
        hardware, calibration: what predicts times; without a device none are predicted.
        warmup: untimed rounds; by default 2 on a GPU and none on a CPU, where counting warms up.
        attention, out, resume: as of ``measure``; ``out`` gets the rows of what ran.
    A method that does not fit the case, does not run or fails says why in its row. Ctrl-C returns
    the rows that were timed.
    Raises: ScheduleError or SpecError for unknown names and wrong parameters, and for equal times
        without a device; MeasurementError for a file that cannot be continued.
    """
    if hardware is None and (equal == "time" or calibration is not None):
        raise ScheduleError(
            "--hardware",
            expected="a profile beside --equal time and --calibration",
            got="none",
            fix="Name the device whose predicted times are meant (aim-cost hardware).",
        )
    execution = Execution(
        dtype=loaded.dtype,
        scoring=scoring(loaded.device),
        keeps_tower_states=tower_keeps_hidden_states(loaded.model),
    )
    case = Case(loaded.spec, workload, hardware or _ANY_DEVICE, execution, calibration)
    asked = parse_conventions(conventions)
    names = dict.fromkeys([EXECUTED.name, *(one.name for one in asked)])
    found = compare(case, methods, ",".join(names), equal=equal, budget=budget)
    priced = [
        {row.convention.name: row for row in found.rows[start : start + len(names)]}
        for start in range(0, len(found.rows), len(names))
    ]
    schedules = [one[EXECUTED.name].entry.schedule for one in priced]
    runs = [one for one in schedules if one is not None and why_not_run(one) is None]
    if warmup is None:
        warmup = _GPU_WARMUP if loaded.device.type == "cuda" else 0
    measured = measure(
        loaded,
        workload,
        list(dict.fromkeys(runs)),
        repeats=repeats,
        warmup=warmup,
        attention=attention,
        refuse=False,
        answer_tokens=new_tokens,
        count=True,
        out=out,
        resume=resume,
    )
    ran = {row.key.run.schedule: row for row in measured}
    rows = [
        Efficiency(one, None if schedule is None else ran.get(schedule))
        for one, schedule in zip(priced, schedules, strict=True)
    ]
    return EfficiencyTable(
        case=case,
        rows=tuple(row for row in rows if not row.is_waiting),
        waiting=tuple(row.label for row in rows if row.is_waiting),
        conventions=tuple(dict.fromkeys(asked)),
        budget=found.budget,
        environment=environment(),
        new_tokens=new_tokens,
        repeats=repeats,
        predicts_time=hardware is not None,
    )
