"""Frames with a coloured digit in one of four places, and their labels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aim_runtime.tiny.digits import GLYPH_SIZES, glyphs, photographs

FRAME_SIZE = 32
"""Pixels of the sides of a frame, by default."""

COLORS = {
    "red": (1.0, 0.25, 0.2),
    "green": (0.25, 1.0, 0.3),
    "blue": (0.35, 0.5, 1.0),
    "yellow": (1.0, 0.95, 0.2),
    "pink": (1.0, 0.4, 0.9),
    "white": (1.0, 1.0, 1.0),
}
PLACES = ("topleft", "topright", "bottomleft", "bottomright")
NOTHING = -1
_SHOWN = 0.8  # chance that a frame shows a digit
_OTHER_SCENE = 0.3  # chance that a frame has a background of its own

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Clips:
    """Frames in groups that share a scene.

    Shapes: pixels[groups, frames, 3, size, size] float32 in -1 .. 1 (SigLIP's range); digit, color
    and place [groups, frames], indices, NOTHING where a frame shows no digit.
    """

    pixels: NDArray[np.float32]
    digit: Ints
    color: Ints
    place: Ints


def draw_clips(
    split: str,
    groups: int,
    frames: int,
    rng: np.random.Generator,
    *,
    size: int = FRAME_SIZE,
    difficulty: float = 1.0,
) -> Clips:
    """Draw clips of digits of a split.

    Args:
        size: pixels of the sides of a frame; glyphs are as large in any.
        difficulty: 0 .. 1, scales background and jitter; below 1 for the first steps of training.
    """
    shape = (groups, frames)
    shown = rng.random(shape) < _SHOWN
    pool = glyphs(split)
    which = rng.integers(len(pool.values), size=shape)
    digit = np.where(shown, pool.values[which], NOTHING)
    color = np.where(shown, rng.integers(len(COLORS), size=shape), NOTHING)
    place = np.where(shown, rng.integers(len(PLACES), size=shape), NOTHING)
    pixels = difficulty * _backgrounds(split, groups, frames, size, rng)
    for group, frame in zip(*np.nonzero(shown), strict=True):
        draw_digit(
            pixels[group, frame],
            split,
            int(which[group, frame]),
            int(color[group, frame]),
            int(place[group, frame]),
            rng,
            jitter=difficulty >= 1,
        )
    return Clips(2 * pixels - 1, digit, color, place)


def draw_digit(
    pixels: NDArray[np.float32],
    split: str,
    which: int,
    color: int,
    place: int,
    rng: np.random.Generator,
    *,
    jitter: bool,
) -> None:
    """Paint one glyph into pixels[3, size, size], in place."""
    frame = pixels.shape[-1]
    half = frame // 2
    index = int(rng.integers(len(GLYPH_SIZES)))
    size = GLYPH_SIZES[index]
    free = half - size
    offset = rng.integers(-1, 2, size=2) if jitter else np.zeros(2, int)
    row, column = divmod(place, 2)
    top = int(np.clip(row * half + free // 2 + offset[0], 0, frame - size))
    left = int(np.clip(column * half + free // 2 + offset[1], 0, frame - size))
    ink = glyphs(split).ink[which, index, :size, :size]
    rgb = np.array(tuple(COLORS.values())[color], np.float32)[:, None, None]
    window = pixels[:, top : top + size, left : left + size]
    window[:] = window * (1 - ink) + rgb * ink


def _backgrounds(
    split: str, groups: int, frames: int, size: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """[groups, frames, 3, size, size]: one crop a group, another one in some frames."""
    photos = photographs(split)

    def crop() -> NDArray[np.float32]:
        photo = photos[rng.integers(len(photos))]
        top, left = (rng.integers(side - size) for side in photo.shape[:2])
        return photo[top : top + size, left : left + size].transpose(2, 0, 1)

    result = np.empty((groups, frames, 3, size, size), np.float32)
    for group in range(groups):
        result[group] = crop()
        for frame in np.nonzero(rng.random(frames) < _OTHER_SCENE)[0]:
            result[group, frame] = crop()
    return result


@dataclass(frozen=True)
class Mosaics:
    """Frames with a digit, or none, in each of the four places.

    Shapes: pixels[n, 3, size, size] as in Clips; digit and color [n, 4], by place.
    """

    pixels: NDArray[np.float32]
    digit: Ints
    color: Ints


def draw_mosaics(
    split: str,
    count: int,
    rng: np.random.Generator,
    *,
    size: int = FRAME_SIZE,
    difficulty: float = 1.0,
) -> Mosaics:
    """Draw frames to train a vision tower on; half of the places are empty."""
    shape = (count, len(PLACES))
    shown = rng.random(shape) < 0.5
    pool = glyphs(split)
    which = rng.integers(len(pool.values), size=shape)
    digit = np.where(shown, pool.values[which], NOTHING)
    color = np.where(shown, rng.integers(len(COLORS), size=shape), NOTHING)
    pixels = difficulty * _backgrounds(split, count, 1, size, rng)[:, 0]
    for frame, place in zip(*np.nonzero(shown), strict=True):
        draw_digit(
            pixels[frame],
            split,
            int(which[frame, place]),
            int(color[frame, place]),
            int(place),
            rng,
            jitter=difficulty >= 1,
        )
    return Mosaics(2 * pixels - 1, digit, color)
