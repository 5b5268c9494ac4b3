"""Refuses the schedules that are priced and not run."""

from aim_cost.schedules.executed import why_not_run
from aim_cost.schedules.schedule import Schedule
from aim_runtime.errors import PatchError


def check_executable(schedule: Schedule, layers: int) -> None:
    """Raises: PatchError for parts that do not run here, ScheduleError for too many layers."""
    found = why_not_run(schedule)
    if found is not None:
        raise PatchError(
            found.field,
            expected=found.expected,
            got=f"{found.got}, which is priced and not run: {found.reason}",
            fix=found.fix,
        )
    if schedule.prune is not None:
        schedule.prune.visual_tokens(max(schedule.prune.tokens or (0,)), text=1, layers=layers)
