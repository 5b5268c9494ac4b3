"""efficiency_table(): methods on one model, run and timed with one clock, beside their prices."""

from dataclasses import dataclass
from pathlib import Path

from aim_cost.case import Case
from aim_cost.conventions.convention import EXECUTED, Convention
from aim_cost.models.workload import Execution, Workload
from aim_cost.render import Row
from aim_cost.schedules.executed import why_not_run
from aim_cost.studies.budget import Budget
from aim_runtime.measurement.attention_backend import AttentionBackend
from aim_runtime.measurement.environment import Environment, environment
from aim_runtime.measurement.measure import measure
from aim_runtime.models.load import Loaded
from aim_runtime.reduction.importance_kernel import scoring
from aim_runtime.seams import tower_keeps_hidden_states
from aim_runtime.validation.efficiency import Efficiency
from aim_runtime.validation.efficiency_request import TableRequest

_GPU_WARMUP = 2


@dataclass(frozen=True)
class EfficiencyTable:
    """What ``efficiency_table`` returns.

    Args:
        case: what was priced; its device means something where ``predicts_time`` alone.
        rows: no reduction first, then the methods as they were asked for.
        waiting: the methods that an interrupt left without a timed run; they have no row.
        published: the papers' conventions that were asked for.
        budget: what each method may cost; None where each runs with its own parameters.
        device: the one that ran, as rows name it.
        new_tokens: of the answer; the prefill gives the first.
        repeats: rounds that were asked for.
    """

    case: Case
    rows: tuple[Efficiency, ...]
    waiting: tuple[str, ...]
    published: tuple[Convention, ...]
    budget: Budget | None
    device: str
    environment: Environment
    new_tokens: int
    repeats: int
    predicts_time: bool

    def to_rows(self) -> list[Row]:
        """A flat row for each method; speed-ups are over the first."""
        first = self.rows[0]
        return [row.to_row(first, predicts_time=self.predicts_time) for row in self.rows]

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
    request: TableRequest,
    *,
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
        warmup: untimed rounds; by default 2 on a GPU and none on a CPU, where counting warms up.
        attention, out, resume: as of ``measure``; ``out`` gets the rows of what ran.
    A method that does not fit the case, does not run or fails says why in its row. Ctrl-C returns
    the rows that were timed.
    Raises: ScheduleError or SpecError for unknown names and wrong parameters, and for equal times
        without a device; MeasurementError for a file that cannot be continued.
    """
    execution = Execution(
        dtype=loaded.dtype,
        scoring=scoring(loaded.device),
        keeps_tower_states=tower_keeps_hidden_states(loaded.model),
    )
    found, published = request.compare(loaded.spec, workload, execution), request.published()
    each = 1 + len(published)
    priced = [
        {row.convention.name: row for row in found.rows[start : start + each]}
        for start in range(0, len(found.rows), each)
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
    first, *others = rows
    return EfficiencyTable(
        case=found.case,
        rows=(first, *(row for row in others if not row.is_waiting)),
        waiting=tuple(row.label for row in rows if row.is_waiting),
        published=published,
        budget=found.budget,
        device=measured[0].key.hardware,
        environment=environment(),
        new_tokens=new_tokens,
        repeats=repeats,
        predicts_time=request.predicts_time,
    )
