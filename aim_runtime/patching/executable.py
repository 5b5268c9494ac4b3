"""Which schedules run here: the language describes more methods than the runtime executes."""

from aim_cost.schedules.schedule import Schedule
from aim_runtime.errors import PatchError
from aim_runtime.reduction.scores import LAYER_IMPORTANCE


def check_executable(schedule: Schedule, layers: int) -> None:
    """Raises: PatchError for parts that do not run here, ScheduleError for too many layers."""
    if schedule.select is not None:
        raise PatchError(
            "schedule.select",
            expected="merge and prune alone",
            got=schedule.label(),
            fix="Leave select out: tokens that are chosen before the LLM are priced, not run.",
        )
    prune = schedule.prune
    if prune is None:
        return
    if prune.importance not in LAYER_IMPORTANCE:
        raise PatchError(
            "schedule.prune.importance",
            expected="a score that runs here",
            got=prune.importance,
            fix=f"Use one of {', '.join(LAYER_IMPORTANCE)}; others are priced, not run.",
        )
    if prune.inject_at:
        raise PatchError(
            "schedule.prune.inject_at",
            expected="0: visual tokens enter the first layer",
            got=prune.inject_at,
            fix="Leave it out; later injection is priced, not run.",
        )
    prune.visual_tokens(max(prune.tokens or (0,)), text=1, layers=layers)
