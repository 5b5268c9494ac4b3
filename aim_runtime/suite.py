"""The schedules that are compared when the user names none."""

from aim_cost.schedule import Schedule


def default_schedules(layers: int) -> list[Schedule]:
    """No reduction, merging, pruning, and both, for a decoder of ``layers`` layers.

    AIM prunes from layer 14 to 22 of 28; other depths get the same shares. One schedule drops half
    of the tokens at once after the second layer, as FastV does, with AIM's score.
    """
    aim = f"linear:{layers * 14 // 28}:{max(layers * 22 // 28, layers * 14 // 28 + 1)}"
    early = f"linear:{layers * 7 // 28}:{max(layers * 22 // 28, layers * 7 // 28 + 1)}"
    half = f"ratios:1,{'0.5' if layers > 1 else '1'}"
    pairs = (
        (None, None),
        ("0.5", None),
        ("0.25", None),
        ("0.125", None),
        (None, aim),
        (None, half),
        ("0.25", aim),
        ("0.25", early),
    )
    return [Schedule.parse(merge, prune) for merge, prune in pairs]
