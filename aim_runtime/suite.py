"""The schedules that are compared when the user names none."""

from aim_cost.schedule import Schedule


def default_schedules(layers: int) -> list[Schedule]:
    """No reduction, merging alone, pruning alone, and both, for a decoder of ``layers`` layers.

    AIM prunes from layer 14 to 22 of 28; other depths get the same shares, and a slope of at least
    two layers, so that some tokens stay and must be chosen.
    """
    first = max(0, min(layers * 14 // 28, layers - 2))
    aim = f"linear:{first}:{max(layers * 22 // 28, first + 2)}"
    pairs = (
        (None, None),
        ("0.5", None),
        ("0.25", None),
        ("0.125", None),
        (None, aim),
        ("0.25", aim),
    )
    return [Schedule.parse(merge, prune) for merge, prune in pairs]
