"""Frames of a video file, and the pixel values the vision tower takes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from aim_cost.checks import whole
from aim_cost.imports import import_optional
from aim_runtime.errors import InputError


def sample_frames(video_file: str | Path, n: int, *, fewer: bool = False) -> np.ndarray:
    """Return ``n`` frames spread evenly over the video, the first and the last among them.

    Args: fewer, take all frames of a video that has fewer than ``n``.
    Returns: uint8 [n, H, W, 3], RGB. The file is decoded once from the start, since seeking is
    inexact in many files. Raises: InputError.
    """
    av = import_optional("av")  # here, so that only reading a video needs it

    whole(n, "frames", InputError)
    where = f"video {Path(video_file).name}"
    try:
        frames = _sample(video_file, n, where, fewer)
    except FileNotFoundError as error:
        raise InputError(
            where, expected="a video file", got="no such file", fix="Check the path."
        ) from error
    except (av.FFmpegError, OSError) as error:
        raise InputError(
            where,
            expected="a video file that can be decoded",
            got=error.strerror or str(error),
            fix="Check the file, or convert it: ffmpeg -i FILE out.mp4.",
        ) from error
    return np.stack(frames)


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


def _sample(video_file: str | Path, n: int, where: str, fewer: bool) -> list[np.ndarray]:
    total = _packets(video_file, where)
    while True:
        if total < (1 if fewer else n):
            raise InputError(
                where,
                expected=f"at least {n} frames",
                got=f"{total} frames",
                fix=f"Ask for at most {total} frames (--frames), or give a longer video.",
            )
        wanted = np.linspace(0, total - 1, min(n, total)).round().astype(int)
        frames, decoded = _decode(video_file, {int(index) for index in wanted})
        if decoded == total:
            return frames
        total = decoded  # some packets hold no frame of their own; now the count is exact


def _packets(video_file: str | Path, where: str) -> int:
    av = import_optional("av")

    with av.open(str(video_file)) as container:
        if not container.streams.video:
            raise InputError(
                where,
                expected="a video stream",
                got="none",
                fix="Give a video, not a sound or text file.",
            )
        packets = container.demux(container.streams.video[0])
        return sum(1 for packet in packets if packet.size and not packet.is_discard)


def _decode(video_file: str | Path, wanted: set[int]) -> tuple[list[np.ndarray], int]:
    """The wanted frames, in the size of the first, and the count of all frames."""
    av = import_optional("av")

    frames: list[np.ndarray] = []
    decoded = 0
    with av.open(str(video_file)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            if decoded in wanted:
                height, width = frames[0].shape[:2] if frames else (frame.height, frame.width)
                frames.append(frame.to_ndarray(format="rgb24", width=width, height=height))
            decoded += 1
    return frames, decoded
