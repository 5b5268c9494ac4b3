"""The schedules that are run when the user names none."""

from aim_cost.schedule import Schedule


def default_schedules(layers: int) -> list[Schedule]:
    """No reduction, merging alone, pruning alone, and both, for a decoder of ``layers`` layers."""
    aim = _ramp(layers, 14 / 28, 22 / 28)
    labels = (
        "none",
        "merge 0.5",
        "merge 0.25",
        "merge 0.125",
        f"prune {aim}",
        f"merge 0.25, prune {aim}",
    )
    return [Schedule.parse(label) for label in labels]


def validation_schedules(layers: int, group_tokens: int) -> list[Schedule]:
    """Twelve schedules, each with about a tenth less work for the LLM than the one before, or more.

    Nearer ones would be ordered by the noise of the clock. Merging alone, pruning alone (late,
    as AIM does, and early) and both take turns. Merging that would leave no token of a group of
    ``group_tokens`` is left out.
    """
    late, early = _ramp(layers, 14 / 28, 22 / 28), _ramp(layers, 7 / 28, 14 / 28)
    labels = (
        "none",
        "merge 0.85",
        f"prune {late}",
        "merge 0.55",
        f"prune {early}",
        "merge 0.35",
        f"merge 0.35, prune {late}",
        "merge 0.2",
        f"merge 0.2, prune {late}",
        f"merge 0.2, prune {early}",
        "merge 0.06",
        f"merge 0.03, prune {early}",
    )
    schedules = map(Schedule.parse, labels)
    return [
        one
        for one in schedules
        if one.merge is None or (one.merge.retention or 0) * group_tokens >= 1
    ]


def _ramp(layers: int, first: float, last: float) -> str:
    """AIM's pruning at these shares of the depth; 14/28 to 22/28 are the paper's.

    The slope takes at least two layers, so that some tokens stay and must be chosen.
    """
    start = max(0, min(int(layers * first), layers - 2))
    return f"linear:{start}:{max(int(layers * last), start + 2)}"
