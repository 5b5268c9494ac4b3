"""Frames of a video file, and the pixel values the vision tower takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from aim_cost.checks import whole
from aim_cost.imports import import_optional
from aim_runtime.errors import InputError
from aim_runtime.videos.album import Progress
from aim_runtime.videos.file import existing_file
from aim_runtime.videos.image import ImageFile, is_image
from aim_runtime.videos.limits import Limits
from aim_runtime.videos.stream import VideoStream


@dataclass(frozen=True)
class SampledVideo:
    """Frames of a video and when they are shown.

    Args:
        frames: uint8 [n, H, W, 3], RGB.
        times_s: seconds from the first frame to each; None where the file does not say.
    """

    frames: np.ndarray
    times_s: tuple[float, ...] | None

    @property
    def seconds_per_frame(self) -> float:
        """The distance of the frames in time, on average. Raises: InputError without times."""
        if self.times_s is None or len(self.times_s) < 2:
            raise InputError(
                "video",
                expected="at least two frames with times",
                got="no times" if self.times_s is None else f"{len(self.times_s)} frames",
                fix="Write it into a file with times: ffmpeg -i FILE out.mp4.",
            )
        return (self.times_s[-1] - self.times_s[0]) / (len(self.times_s) - 1)


def sample_frames(
    video_file: str | Path,
    n: int,
    *,
    fewer: bool = False,
    damaged: bool = False,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return ``n`` frames at even distances in time, the first and the last among them.

    Args and errors: those of ``sample_video``. Returns: uint8 [n, H, W, 3], RGB.
    """
    return sample_video(
        video_file, n, fewer=fewer, damaged=damaged, limits=limits, progress=progress
    ).frames


def sample_video(
    video_file: str | Path,
    n: int,
    *,
    fewer: bool = False,
    damaged: bool = False,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> SampledVideo:
    """Return ``n`` frames at even distances in time, the first and the last among them, with times.

    docs/videos.md says what becomes of rotation, transparency, odd times and damage.

    Args:
        video_file: the path of a video, an animation or a picture, which is a video of one frame.
        fewer: take all frames of a video that has fewer than ``n``.
        damaged: of a file that breaks off or is damaged, take what comes before the damage.
        limits: what the file may cost to read; ``Limits()`` by default.
        progress: called with steps done and all steps while frames are decoded.
    Raises: InputError; MissingLibraryError without PyAV.
    """
    av = import_optional("av")  # here, so that only reading a video needs it

    whole(n, "frames", InputError)
    path = existing_file(video_file)
    where = f"video {path.name}"
    bound = limits or Limits()
    try:
        source = (
            ImageFile(path, where, bound, damaged, progress)
            if is_image(path)
            else VideoStream(path, where, bound, damaged, progress)
        )
        return _sampled(source, n, fewer, where)
    except (av.FFmpegError, OSError) as error:
        raise InputError(
            where,
            expected="a video file that can be decoded",
            got=error.strerror or str(error),
            fix="Check the file, or convert it: ffmpeg -i FILE out.mp4.",
        ) from error


def pixel_values(
    frames: np.ndarray, size: int, mean: Sequence[float], std: Sequence[float]
) -> torch.Tensor:
    """Resize (bicubic, aspect ratio not kept), scale to [0, 1] and normalise, on the CPU.

    Shapes: uint8 [F, H, W, 3] -> float32 [1, F, 3, size, size]; ``mean`` and ``std`` per channel.
    Source: the steps of LLaVA-OneVision's video processor; by PIL, so torchvision is not needed.
    """
    resized = [
        np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BICUBIC))
        for frame in frames
    ]
    scaled = np.stack(resized).astype(np.float32) / 255
    normal = (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return torch.from_numpy(normal.transpose(0, 3, 1, 2).copy()).unsqueeze(0)


def _sampled(source: ImageFile | VideoStream, n: int, fewer: bool, where: str) -> SampledVideo:
    timeline, counted = source.timeline(), False
    while True:
        few = len(timeline) < (1 if fewer else n)
        numbers = () if few else timeline.spread(n)
        frames, seen = source.read(numbers)
        if seen == timeline:
            break
        if counted:
            raise InputError(
                where,
                expected="a file that stays the same while it is read",
                got=f"{len(timeline)} frames, then {len(seen)}",
                fix="Wait until it is written.",
            )
        timeline, counted = seen, True  # some packets hold no frame; now the count is exact
    if few:
        raise InputError(
            where,
            expected=f"at least {1 if fewer else n} frames",
            got=f"{len(timeline)} frames",
            fix=f"Ask for at most {len(timeline)} frames (--frames), or give a longer video."
            if len(timeline)
            else "Give a longer video.",
        )
    times = timeline.times_s
    return SampledVideo(frames, times and tuple(times[number] for number in numbers))
