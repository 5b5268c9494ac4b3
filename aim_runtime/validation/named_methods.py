"""NamedMethods: published methods as schedules to validate, each with its name."""

from collections.abc import Mapping
from dataclasses import dataclass

from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Execution, Workload
from aim_cost.schedules.executed import why_not_run
from aim_cost.schedules.schedule import Schedule
from aim_runtime.validation.efficiency_request import TableRequest


@dataclass(frozen=True)
class NamedMethods:
    """Methods that run on a case, no reduction first, and those that do not.

    Args:
        names: by the schedule; methods that do the same here share a name with commas.
        left_out: why a method does not run, by its name.
    """

    names: Mapping[Schedule, str]
    left_out: Mapping[str, str]

    @classmethod
    def of(
        cls, request: TableRequest, spec: ModelSpec, workload: Workload, dtype: str
    ) -> "NamedMethods":
        """What ``request`` asks for. Raises: as ``compare``, for wrong names and parameters."""
        found: dict[Schedule, list[str]] = {}
        left_out: dict[str, str] = {}
        for row in request.compare(spec, workload, Execution(dtype=dtype)).rows:
            schedule = row.entry.schedule
            refused = None if schedule is None else why_not_run(schedule)
            if schedule is None or refused is not None:
                left_out[row.label] = refused.reason if refused else row.entry.reason
            else:
                found.setdefault(schedule, []).append(row.label)
        return cls({one: ", ".join(names) for one, names in found.items()}, left_out)
