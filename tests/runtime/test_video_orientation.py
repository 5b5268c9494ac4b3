"""Upright frames: rotated and mirrored videos and photos, and pixels that are not square."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from aim_runtime.errors import InputError
from aim_runtime.prompts.video import sample_frames
from tests.runtime.clips import SIZE, av, corners, quarters, write_video

WIDTH, HEIGHT = SIZE
TURNS = {  # what a turn to the left, then mirrors, make of the quarters 40 100 / 160 220
    (0, False, False): [40, 100, 160, 220],
    (90, False, False): [100, 220, 40, 160],
    (180, False, False): [220, 160, 100, 40],
    (270, False, False): [160, 40, 220, 100],
    (0, True, False): [100, 40, 220, 160],
    (0, False, True): [160, 220, 40, 100],
    (90, True, False): [220, 100, 160, 40],
    (90, False, True): [40, 160, 100, 220],
}


def near(levels, expected):
    return np.abs(np.array(levels) - expected).max() <= 4


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
@pytest.mark.parametrize(("turn", "expected"), TURNS.items())
def test_a_phone_held_otherwise(tmp_path, name, turn, expected):
    degrees, across, down = turn

    def set_up(stream):
        stream.set_display_rotation(degrees, hflip=across, vflip=down)

    path = write_video(tmp_path / name, [corners()] * 3, set_up=set_up)
    frames = sample_frames(path, 3)
    upright = (WIDTH, HEIGHT) if degrees in (90, 270) else (HEIGHT, WIDTH)
    assert frames.shape == (3, *upright, 3)
    assert all(near(quarters(frame), expected) for frame in frames)
    if turn != (0, False, False):  # the second way: each corner goes where the matrix sends it
        with av.open(str(path)) as file:
            matrix = bytes(next(file.decode(video=0)).side_data["DISPLAYMATRIX"])
        a, b, _, c, d = np.sign(np.frombuffer(matrix, np.int32)[:5].astype(int)).tolist()
        sides = [(-1, -1), (1, -1), (-1, 1), (1, 1)]
        sent = {(a * x + c * y, b * x + d * y): k for k, (x, y) in enumerate(sides)}
        assert near(quarters(frames[0]), [(40, 100, 160, 220)[sent[side]] for side in sides])


def test_an_angle_between_is_refused(tmp_path):
    def set_up(stream):
        stream.set_display_rotation(30)

    path = write_video(tmp_path / "a.mp4", [corners()] * 2, set_up=set_up)
    with pytest.raises(InputError, match="quarter, a half or three quarters, got another angle"):
        sample_frames(path, 2)


def test_a_rotated_video_with_transparency(tmp_path):
    """Its decoder is another one than the container's, and must be told the rotation."""

    def set_up(stream):
        stream.set_display_rotation(90)

    clear = np.dstack([corners(), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    path = write_video(
        tmp_path / "a.webm",
        [clear] * 3,
        "libvpx-vp9",
        form="yuva420p",
        options={"auto-alt-ref": "0"},
        set_up=set_up,
    )
    frames = sample_frames(path, 2)
    assert frames.shape == (2, WIDTH, HEIGHT, 3)
    assert near(quarters(frames[0]), TURNS[90, False, False])


@pytest.mark.parametrize(
    ("aspect", "size"),
    [
        (Fraction(1), (64, 48)),
        (Fraction(4, 3), (85, 48)),
        (Fraction(8, 9), (64, 54)),
        (Fraction(2), (128, 48)),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_pixels_that_are_not_square(tmp_path, aspect, size, turned):
    def set_up(stream):
        stream.sample_aspect_ratio = aspect
        if turned:
            stream.set_display_rotation(90)

    path = write_video(tmp_path / "a.mp4", [corners()] * 2, "mpeg4", set_up=set_up)
    with av.open(str(path)) as file:
        assert file.streams.video[0].sample_aspect_ratio == aspect
    frames = sample_frames(path, 2)
    width, height = size[::-1] if turned else size
    assert frames.shape == (2, height, width, 3)
    assert near(quarters(frames[0]), TURNS[90 if turned else 0, False, False])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_its_exif_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    Image.fromarray(corners()).save(path, exif=exif, quality=95)
    (frame,) = sample_frames(path, 1)
    stored = corners()
    upright = {  # Exif 2.32, table 6: what the first row and the first column are
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: stored.swapaxes(0, 1)[:, ::-1],
        7: stored.swapaxes(0, 1)[::-1, ::-1],
        8: stored.swapaxes(0, 1)[::-1],
    }[orientation]
    assert frame.shape == upright.shape
    assert near(quarters(frame), quarters(upright))
