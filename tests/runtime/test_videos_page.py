"""docs/videos.md: each row of its table, on a file, and its code as it stands."""

import re
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aim_runtime.errors import InputError
from aim_runtime.prompts.video import sample_frames, sample_video
from aim_runtime.videos.limits import Limits
from tests.runtime.clips import (
    as_frame,
    av,
    corners,
    flat,
    grey,
    levels,
    quarters,
    save_gif,
    slow_frames,
    tagged,
    textured,
    write_song,
    write_video,
)

PAGE = (Path(__file__).parents[2] / "docs" / "videos.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (?!the file \|)(.+?) \| .+ \|$", PAGE, re.MULTILINE)
GREYS = [grey(index) for index in range(12)]
CHECKS = {}


def row(*names):
    """Mark a check of the rows of these names."""

    def mark(check):
        CHECKS.update(dict.fromkeys(names, check))
        return check

    return mark


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_table(tmp_path, name):
    CHECKS[name](tmp_path)


def test_every_check_has_its_row():
    assert set(CHECKS) == set(ROWS) and len(ROWS) > 25


def test_the_code_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", [grey(index) for index in range(15)])
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(code, names)
    assert names["video"].frames.shape == (8, 48, 64, 3)
    assert names["video"].times_s == pytest.approx([0.2 * k for k in range(8)])
    assert names["second_per_grid"] == pytest.approx(0.4)


def refused(path, n, match, **options):
    with pytest.raises(InputError, match=match):
        sample_frames(path, n, **options)


@row("frames at uneven distances")
def uneven(folder):
    stamps = [0, 100, 200, 1200, 3900, 4000]
    path = write_video(folder / "a.mp4", GREYS[:6], stamps=stamps, unit=Fraction(1, 1000))
    assert levels(sample_frames(path, 5)) == [0, 3, 3, 4, 5]


@row("exactly as many frames as asked")
def exactly(folder):
    stamps = [0, 100, 200, 1200, 3900, 4000]
    path = write_video(folder / "a.mp4", GREYS[:6], stamps=stamps, unit=Fraction(1, 1000))
    assert levels(sample_frames(path, 6)) == [0, 1, 2, 3, 4, 5]


@row("fewer frames than asked")
def fewer(folder):
    path = write_video(folder / "a.mp4", GREYS)
    refused(path, 13, "at least 13 frames, got 12")
    assert levels(sample_frames(path, 13, fewer=True)) == list(range(12))


@row("one frame")
def one(folder):
    assert levels(sample_frames(write_video(folder / "a.mp4", GREYS[7:8]), 1)) == [7]


@row("no frame")
def none(folder):
    path = folder / "a.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        out.start_encoding()
    refused(path, 1, "expected", fewer=True)


@row("times that lack or run backwards")
def without_times(folder):
    video = sample_video(write_video(folder / "a.h264", GREYS), 3)
    assert video.times_s is None and levels(video.frames) == [0, 6, 11]


@row("a start after 0, an edit list")
def edited(folder):
    stamps = [index - 4 for index in range(12)]
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    path = write_video(folder / "a.mp4", GREYS, stamps=stamps, container=options)
    assert levels(sample_frames(path, 8)) == [4, 5, 6, 7, 8, 9, 10, 11]
    late = write_video(folder / "b.mp4", GREYS, stamps=[index + 50 for index in range(12)])
    assert sample_video(late, 2).times_s == pytest.approx((0, 1.1))


@row("a start amid a group of frames")
def amid(folder):
    path = write_video(folder / "a.ts", [textured(index) for index in range(40)], gop=12)
    content = path.read_bytes()
    path.write_bytes(content[len(content) // 6 // 188 * 188 :])
    _, frames = slow_frames(path)
    assert len(frames) == 28
    assert np.array_equal(sample_frames(path, 28), np.stack(frames))


@row("more frames or a longer time in the header")
def lying(folder):
    path = write_video(folder / "a.mkv", GREYS)
    content = bytearray(path.read_bytes())
    struct.pack_into(">d", content, content.index(b"\x44\x89\x88") + 3, 1e6)
    path.write_bytes(content)
    assert levels(sample_frames(path, 12)) == list(range(12))
    refused(path, 13, "got 12 frames")


@row("rotated or mirrored")
def rotated(folder):
    def turn(degrees, mirror):
        def set_up(stream):
            stream.set_display_rotation(degrees, hflip=mirror)

        path = write_video(folder / f"{degrees}{mirror}.mp4", [corners()] * 2, set_up=set_up)
        return quarters(sample_frames(path, 1)[0])

    assert np.abs(np.subtract(turn(90, False), (100, 220, 40, 160))).max() <= 4
    assert np.abs(np.subtract(turn(0, True), (100, 40, 220, 160))).max() <= 4
    with pytest.raises(InputError, match="another angle"):
        turn(45, False)


@row("pixels that are not square")
def stretched(folder):
    def set_up(stream):
        stream.sample_aspect_ratio = Fraction(4, 3)

    path = write_video(folder / "a.mp4", GREYS, "mpeg4", set_up=set_up)
    assert sample_frames(path, 2).shape == (2, 48, 85, 3)


@row("a size that changes")
def resized(folder):
    parts = [
        write_video(folder / "a.mjpeg", [grey(9, size)], "mjpeg", form="yuvj420p").read_bytes()
        for size in ((64, 48), (32, 32))
    ]
    (folder / "b.mjpeg").write_bytes(b"".join(parts))
    assert sample_frames(folder / "b.mjpeg", 2).shape == (2, 48, 64, 3)


@row("interlaced")
def interlaced(folder):
    picture = grey(10)
    picture[1::2] = 200
    options = {"flags": "+ildct+ilme", "qmax": "2"}
    path = write_video(folder / "a.mpg", [picture] * 3, "mpeg2video", rate=25, options=options)
    assert np.abs(sample_frames(path, 1)[0].astype(int) - picture).max() <= 4


@row("colours of BT.601, BT.709 or BT.2020, limited or full range")
def coloured(folder):
    """Green of each matrix: Y and chroma by ITU-T H.273."""
    codes = {2: (145, 54, 34), 6: (145, 54, 34), 1: (173, 42, 26), 9: (165, 47, 25)}
    for matrix, code in codes.items():
        tags = {"colorspace": matrix, "color_range": 1}
        path = tagged(folder / "a.mkv", flat(code, "yuv420p", **tags), "libx264", **tags)
        assert np.abs(sample_frames(path, 1).astype(int) - (0, 255, 0)).max() <= 4
    tags = {"colorspace": 1, "color_range": 2}
    path = tagged(folder / "b.mkv", flat((255, 128, 128), "yuv420p", **tags), "libx264", **tags)
    assert sample_frames(path, 1).min() >= 254


@row("more than eight bits")
def ten_bits(folder):
    path = write_video(folder / "a.mkv", GREYS, "ffv1", form="yuv420p10le")
    assert levels(sample_frames(path, 12)) == list(range(12))


@row("HDR (PQ, HLG)")
def hdr(folder):
    for transfer, code in ((16, 0.58), (18, 0.75)):  # both 203 cd/m2, ITU-R BT.2408
        tags = {"colorspace": 9, "color_range": 1, "color_primaries": 9, "color_trc": transfer}
        for above, least in ((0, 250), (0.1, 255)):
            planes = (round(64 + 876 * (code + above)), 512, 512)
            frame = flat(planes, "yuv420p10le", **tags)
            path = tagged(folder / "a.mkv", frame, "ffv1", **tags)
            assert sample_frames(path, 1).min() >= least


@row("transparency")
def transparent(folder):
    clear = np.zeros((48, 64, 4), np.uint8)
    path = write_video(folder / "a.mov", [clear] * 2, "qtrle", form="argb")
    assert sample_frames(path, 2).min() == 255
    Image.fromarray(clear).save(folder / "a.png")
    assert sample_frames(folder / "a.png", 1).min() == 255


def streams(path, *parts):
    with av.open(str(path), "w") as out:
        made = []
        for codec, size, level, count, disposition in parts:
            stream = out.add_stream(codec, rate=10)
            stream.width, stream.height = size
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = disposition
            made.append((stream, [grey(level, size)] * count))
        for stream, pictures in made:
            for picture in pictures:
                out.mux(stream.encode(as_frame(picture, stream.pix_fmt)))
            out.mux(stream.encode())
    return path


DEFAULT, NONE = av.stream.Disposition.default, av.stream.Disposition(0)
COVER = av.stream.Disposition.attached_pic


@row("several videos")
def several(folder):
    small, large = ("mpeg4", (48, 32), 10, 4), ("mpeg4", (96, 64), 30, 4)
    still = ("mjpeg", (320, 320), 40, 1)
    for parts, meant in (
        (((*small, DEFAULT), (*large, NONE)), 10),
        (((*small, NONE), (*large, NONE)), 30),
        (((*small, NONE), ("mpeg4", (48, 32), 20, 4, NONE)), 10),
        (((*still, DEFAULT), (*small, NONE)), 10),
    ):
        assert set(levels(sample_frames(streams(folder / "a.mkv", *parts), 4))) == {meant}


@row("a cover")
def covered(folder):
    cover, video = ("mjpeg", (320, 320), 40, 1, COVER), ("mpeg4", (48, 32), 10, 4, DEFAULT)
    assert set(levels(sample_frames(streams(folder / "a.mp4", cover, video), 4))) == {10}
    song = write_song(folder / "a.mp3", "libmp3lame", cover="mjpeg")
    refused(song, 1, "Give a video, not a sound", fewer=True)


@row("sound, text, a list of files, a folder, an address")
def others(folder):
    refused(write_song(folder / "a.wav", "pcm_s16le"), 1, "a video stream, got none")
    (folder / "a.txt").write_text("a text\n" * 9)
    refused(folder / "a.txt", 1, "a text file")
    (folder / "a.m3u8").write_text("#EXTM3U\n#EXTINF:4,\na.ts\n")
    refused(folder / "a.m3u8", 1, "a text file")
    refused(folder, 1, "a folder")
    refused("https://example.com/a.mp4", 1, "an address")


@row("GIF, APNG, animated WebP or AVIF")
def animated(folder):
    for name in ("a.gif", "a.png", "a.webp"):
        options = {"lossless": True} if name == "a.webp" else {}
        assert levels(sample_frames(save_gif(folder / name, GREYS, 50, **options), 12)) == [
            *range(12)
        ]
    assert sample_video(save_gif(folder / "b.gif", GREYS, 0), 2).times_s == pytest.approx((0, 1.1))


@row("PNG, JPEG, WebP, AVIF, BMP, TIFF")
def still(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp", "a.tif"):
        Image.fromarray(corners()).save(folder / name)
        assert np.abs(sample_frames(folder / name, 1)[0].astype(int) - corners()).mean() < 3
    Image.fromarray(corners()).save(folder / "b.jpg", exif=exif)
    assert sample_frames(folder / "b.jpg", 1).shape == (1, 64, 48, 3)
    Image.fromarray(np.full((48, 64), 100 * 257, np.uint16)).save(folder / "c.png")
    assert set(sample_frames(folder / "c.png", 1).ravel()) == {100}


def half(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    return path


@row("cut off")
def cut(folder):
    pictures = [textured(index) for index in range(30)]
    for name, codec in (("a.mp4", "mpeg4"), ("a.mkv", "mpeg4"), ("a.avi", "mpeg4")):
        refused(half(write_video(folder / name, pictures, codec)), 1, "cut off", fewer=True)
    path = half(write_video(folder / "a.ts", pictures))
    _, frames = slow_frames(path)
    assert 5 < len(frames) < 25
    assert np.array_equal(sample_frames(path, 30, fewer=True), np.stack(frames))


def spoilt(path):
    content = bytearray(path.read_bytes())
    fifth = len(content) // 5
    content[3 * fifth : 4 * fifth] = bytes(fifth)
    path.write_bytes(content)
    return path


@row("damaged")
def damaged(folder):
    path = spoilt(write_video(folder / "a.mkv", [textured(index) for index in range(30)]))
    refused(path, 30, "damage", fewer=True)


@row("cut off or damaged, with `damaged=True`, `--damaged` or lmms-eval's `damaged=true`")
def damaged_yet_wanted(folder):
    for change in (half, spoilt):
        path = write_video(folder / "a.mkv", [textured(index) for index in range(30)])
        _, frames = slow_frames(path)
        found = sample_frames(change(path), 30, fewer=True, damaged=True)
        assert 5 < len(found) < 30
        assert np.array_equal(found, np.stack(frames[: len(found)]))


@row(
    "more than 67,108,864 pixels a frame",
    "more than 2,097,152 frames",
    "more than 8 GiB of frames to keep",
)
def limited(folder):
    assert Limits() == Limits(67_108_864, 2_097_152, 8 * 2**30)
    path = write_video(folder / "a.mp4", GREYS)
    for limits in (Limits(frame_pixels=3071), Limits(frames=11), Limits(sampled_bytes=18431)):
        refused(path, 2, "at most|1 to 3071 pixels", limits=limits)
    assert len(sample_frames(path, 2, limits=Limits(3072, 12, 18432))) == 2
