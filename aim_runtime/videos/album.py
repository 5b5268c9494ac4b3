"""Album: the frames of a file that are kept."""

from collections.abc import Callable, Sequence

import numpy as np

from aim_runtime.videos.limits import Limits

Progress = Callable[[int, int], None]
"""Called with steps done and all steps while frames are decoded."""


class Album:
    """Keeps the frames of some numbers, in the size of the first.

    Room for all is made with the first, so the memory needed is known before the second.
    Args: numbers, of frames in the file, in order; one that occurs twice is kept twice.
    """

    def __init__(self, numbers: Sequence[int], limits: Limits, where: str) -> None:
        self._numbers, self._limits, self._where = numbers, limits, where
        self._wanted = frozenset(numbers)
        self._filled = 0
        self.frames = np.empty((0, 0, 0, 3), np.uint8)

    def wants(self, number: int) -> bool:
        return number in self._wanted

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that the next frame must have, itself ``width`` x ``height``.

        Raises: InputError where it is over the limits.
        """
        self._limits.require_size(width, height, self._where)
        if self._filled:
            height, width = self.frames.shape[1:3]
            return width, height
        count = len(self._numbers)
        self._limits.require_sampled(count, width, height, self._where)
        self.frames = np.empty((count, height, width, 3), np.uint8)
        return width, height

    def keep(self, number: int, picture: np.ndarray) -> None:
        """Keep ``picture``, uint8 [H, W, 3], as the next wanted frame."""
        while self._filled < len(self._numbers) and self._numbers[self._filled] == number:
            self.frames[self._filled] = picture
            self._filled += 1
