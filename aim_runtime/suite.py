"""The schedules that are run when the user names none."""

from aim_cost.schedule import Schedule

_AIM_MERGE = "0.25"


def default_schedules(layers: int) -> list[Schedule]:
    """No reduction, merging alone, pruning alone, and both, for a decoder of ``layers`` layers."""
    aim = _ramp(layers, 14 / 28, 22 / 28)
    pairs = (
        (None, None),
        ("0.5", None),
        (_AIM_MERGE, None),
        ("0.125", None),
        (None, aim),
        (_AIM_MERGE, aim),
    )
    return [Schedule.parse(merge, prune) for merge, prune in pairs]


def validation_schedules(layers: int, group_tokens: int) -> list[Schedule]:
    """Twelve schedules, each with about a tenth less work for the LLM than the one before, or more.

    Nearer ones would be ordered by the noise of the clock. Merging alone, pruning alone (late,
    as AIM does, and early) and both take turns. Merging that would leave no token of a group of
    ``group_tokens`` is left out.
    """
    late, early = _ramp(layers, 14 / 28, 22 / 28), _ramp(layers, 7 / 28, 14 / 28)
    pairs = (
        (None, None),
        ("0.85", None),
        (None, late),
        ("0.55", None),
        (None, early),
        ("0.35", None),
        ("0.35", late),
        ("0.2", None),
        ("0.2", late),
        ("0.2", early),
        ("0.06", None),
        ("0.03", early),
    )
    return [
        Schedule.parse(merge, prune)
        for merge, prune in pairs
        if merge is None or float(merge) * group_tokens >= 1
    ]


def _ramp(layers: int, first: float, last: float) -> str:
    """AIM's pruning at these shares of the depth; 14/28 to 22/28 are the paper's.

    The slope takes at least two layers, so that some tokens stay and must be chosen.
    """
    start = max(0, min(int(layers * first), layers - 2))
    return f"linear:{start}:{max(int(layers * last), start + 2)}"
