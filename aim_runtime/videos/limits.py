"""Limits: what a file may cost to read, so that a small file cannot fill the memory."""

from dataclasses import dataclass

from aim_cost.checks import whole
from aim_runtime.errors import InputError

_LARGEST = 2**50


@dataclass(frozen=True)
class Limits:
    """What a file may cost to read.

    Args:
        frame_pixels: of one frame, as it is shown; 8192 x 8192.
        frames: in the file; 19 hours at 30 a second.
        sampled_bytes: of all frames that are taken, three bytes a pixel; 8 GiB.
    """

    frame_pixels: int = 2**26
    frames: int = 2**21
    sampled_bytes: int = 2**33

    def __post_init__(self) -> None:
        for name in ("frame_pixels", "frames", "sampled_bytes"):
            whole(getattr(self, name), f"limits.{name}", InputError, at_most=_LARGEST)

    def require_size(self, width: int, height: int, where: str) -> None:
        """Raises: InputError for a frame of no pixels, or of too many."""
        if 0 < width * height <= self.frame_pixels:
            return
        raise InputError(
            where,
            expected=f"frames of 1 to {self.frame_pixels} pixels",
            got=f"{width}x{height}" if width * height else "a larger size, or none",
            fix="Scale the video down: ffmpeg -i FILE -vf scale=1920:-2 out.mp4; or raise "
            "limits=Limits(frame_pixels=...).",
        )

    def require_frames(self, count: int, where: str) -> None:
        """Raises: InputError for too many frames in the file."""
        if count > self.frames:
            raise InputError(
                where,
                expected=f"at most {self.frames} frames in the file",
                got="more",
                fix="Cut the video: ffmpeg -i FILE -t SECONDS -c copy out.mp4; or raise "
                "limits=Limits(frames=...).",
            )

    def require_sampled(self, count: int, width: int, height: int, where: str) -> None:
        """Raises: InputError for more bytes of frames than may be kept."""
        needed = 3 * count * width * height
        if needed > self.sampled_bytes:
            raise InputError(
                where,
                expected=f"at most {self.sampled_bytes} bytes of frames to keep",
                got=f"{needed}: {count} frames of {width}x{height}",
                fix="Take fewer frames, or scale the video down: ffmpeg -i FILE -vf "
                "scale=1920:-2 out.mp4; or raise limits=Limits(sampled_bytes=...).",
            )
