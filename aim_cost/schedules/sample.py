"""Sample: how many frames of each video enter the vision tower."""

from dataclasses import dataclass, replace
from typing import ClassVar

from aim_cost.checks import whole
from aim_cost.errors import ScheduleError
from aim_cost.models.workload import Workload
from aim_cost.schedules.language import Amount, Numbers, Part, Word


@dataclass(frozen=True)
class Sample(Part):
    """Fewer frames of each video, at equal distances, each in the middle of its part of the video.

    The vision tower never sees the others. A tower that takes frames in pairs (Qwen's) gets whole
    pairs. Images stay as they are.

    Args: frames, at most this many of each video. Raises: ScheduleError.
    """

    frames: int

    AMOUNTS: ClassVar = (
        Amount("", "frames", Numbers("8"), "at most this many frames of each video are encoded"),
    )
    WORDS: ClassVar[tuple[Word, ...]] = ()

    def __post_init__(self) -> None:
        whole(self.frames, "sample.frames", ScheduleError)

    def sampled(self, workload: Workload) -> Workload:
        """What is left of a workload. Raises: ScheduleError for one without a video."""
        if workload.frames is None:
            raise ScheduleError(
                "schedule.sample",
                expected="a video, whose frames it samples",
                got=workload.label(),
                fix="Give frames, or leave sample out.",
            )
        return replace(workload, frames=min(self.frames, workload.frames))

    def groups(self, groups: int, group_frames: int) -> tuple[int, ...]:
        """Which of the ``groups`` of a video are encoded, each of ``group_frames`` frames."""
        kept = min(groups, -(-self.frames // group_frames))
        return tuple((2 * number + 1) * groups // (2 * kept) for number in range(kept))
