"""Damage: a file that breaks off or is spoilt is an error, or what comes before the damage."""

import struct

import numpy as np
import pytest

from aim_runtime.errors import InputError
from aim_runtime.prompts.video import sample_frames, sample_video
from aim_runtime.videos.ending import missing_bytes
from tests.runtime.clips import (
    av,
    grey,
    levels,
    save_gif,
    slow_frames,
    textured,
    write_video,
)

FRAMES = 30
SIZED = {  # containers that say how long the file is
    "a.mp4": ("libx264", {}),
    "fast.mp4": ("libx264", {"container": {"movflags": "faststart"}}),
    "parts.mp4": ("libx264", {"container": {"movflags": "frag_keyframe+empty_moov"}, "gop": 5}),
    "fast.mov": ("mpeg4", {"container": {"movflags": "faststart"}}),
    "a.mkv": ("libx264", {}),
    "a.webm": ("libvpx-vp9", {}),
    "a.avi": ("mpeg4", {}),
    "still.avi": ("mjpeg", {"form": "yuvj420p"}),
    "a.wmv": ("wmv2", {}),
    "a.ogv": ("libvpx", {"muxer": "ogg"}),
    "a.apng": ("apng", {"form": "rgb24"}),
    "a.gif": ("gif", {"form": "rgb8"}),
}
UNSIZED = {  # containers that do not
    "a.ts": ("libx264", {}),
    "a.flv": ("libx264", {}),
    "a.nut": ("ffv1", {}),
    "a.mpg": ("mpeg2video", {"rate": 25}),
    "a.h264": ("libx264", {}),
    "a.mjpeg": ("mjpeg", {"form": "yuvj420p"}),
    "a.y4m": ("rawvideo", {"muxer": "yuv4mpegpipe"}),
    "a.ivf": ("libvpx", {}),
    "live.mkv": ("libx264", {"container": {"live": "1"}}),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The path of a file of the given name, written once."""
    folder, made = tmp_path_factory.mktemp("damage"), {}

    def write(name):
        if name not in made:
            codec, options = (SIZED | UNSIZED)[name]
            pictures = [textured(index) for index in range(FRAMES)]
            made[name] = write_video(folder / name, pictures, codec, **options)
        return made[name]

    return write


def cut(path, share, tmp_path):
    content = path.read_bytes()
    shorter = tmp_path / path.name
    shorter.write_bytes(content[: int(len(content) * share)])
    return shorter


@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize("share", [0.5, 0.7, 0.9, 0.995])
@pytest.mark.parametrize("n", [2, FRAMES - 5])
def test_a_file_that_breaks_off_is_an_error(written, tmp_path, name, share, n):
    path = written(name)
    assert missing_bytes(path) == 0
    assert len(sample_frames(path, FRAMES)) == FRAMES
    shorter = cut(path, share, tmp_path)
    for fewer in (False, True):
        with pytest.raises(InputError, match=name):
            sample_frames(shorter, n, fewer=fewer)


@pytest.mark.parametrize("name", SIZED)
def test_the_last_byte_is_missed(written, tmp_path, name):
    path = written(name)
    content = path.read_bytes()
    shorter = tmp_path / name
    shorter.write_bytes(content[:-1])
    sloppy = name.endswith(".avi")  # some writers count eight bytes too many
    if name != "a.apng":  # Pillow looks at the end of a PNG
        assert bool(missing_bytes(shorter)) is not sloppy
    shorter.write_bytes(content + bytes(100))
    assert missing_bytes(shorter) == 0


@pytest.mark.parametrize("name", UNSIZED)
@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_an_end_that_nobody_announced(written, tmp_path, name, share):
    """Either an error, or frames that really are in the file, each once."""
    path = written(name)
    _, every = slow_frames(path)
    shorter = cut(path, share, tmp_path)
    try:
        frames = sample_frames(shorter, FRAMES, fewer=True)
    except InputError:
        with pytest.raises(InputError, match="Copy or download it again"):
            sample_frames(shorter, FRAMES, fewer=True)
        return
    assert 1 < len(frames) <= FRAMES
    assert np.array_equal(frames, np.stack(every[: len(frames)]))


@pytest.mark.parametrize("name", [*SIZED, *UNSIZED])
@pytest.mark.parametrize("share", [0.6, 0.9])
def test_what_comes_before_the_damage(written, tmp_path, name, share):
    path = written(name)
    _, every = slow_frames(path)
    shorter = cut(path, share, tmp_path)
    if name == "a.mp4" or (name in ("fast.mov", "a.avi") and share == 0.6):
        with pytest.raises(InputError):  # the index at the end lacks, or every frame
            sample_frames(shorter, 1, damaged=True)
        return
    frames = sample_frames(shorter, FRAMES, fewer=True, damaged=True)
    assert 1 <= len(frames) < FRAMES or (name in ("a.wmv", "a.mpg") and share == 0.9)
    if name not in ("a.gif", "a.apng"):  # Pillow reads them, in colours of its own
        assert np.array_equal(frames, np.stack(every[: len(frames)]))
    with pytest.raises(InputError, match=f"got {len(frames)} frames"):
        sample_frames(shorter, FRAMES + 1, damaged=True)


def test_damage_leaves_whole_files_as_they_are(written):
    for name in ("a.mp4", "a.mkv", "a.gif"):
        whole = sample_video(written(name), 7)
        again = sample_video(written(name), 7, damaged=True)
        assert np.array_equal(whole.frames, again.frames) and whole.times_s == again.times_s


@pytest.mark.parametrize("name", ["fast.mp4", "a.mkv", "a.flv", "still.avi", "a.mpg"])
def test_spoilt_bytes_that_the_decoder_sees(written, tmp_path, name):
    """Zeros over a fifth of the file: an error, and before it the right frames."""
    path = written(name)
    _, every = slow_frames(path)
    content = bytearray(path.read_bytes())
    start = 6 * len(content) // 10
    content[start : start + len(content) // 5] = bytes(len(content) // 5)
    spoilt = tmp_path / name
    spoilt.write_bytes(content)
    with pytest.raises(InputError, match="damage"):
        sample_frames(spoilt, FRAMES, fewer=True)
    frames = sample_frames(spoilt, FRAMES, fewer=True, damaged=True)
    assert 1 <= len(frames) < FRAMES
    assert np.array_equal(frames, np.stack(every[: len(frames)]))


def test_a_lost_packet_of_a_broadcast(written, tmp_path):
    content = written("a.ts").read_bytes()
    video = b"\x47\x01\x00"  # the video's packets have the number 256; this one goes on
    middle = next(
        place
        for place in range(len(content) // 2 // 188 * 188, len(content), 188)
        if content[place : place + 3] == video
    )
    path = tmp_path / "lost.ts"
    path.write_bytes(content[:middle] + content[middle + 188 :])
    with pytest.raises(InputError, match="damage: a packet that is not whole"):
        sample_frames(path, 5)
    assert len(sample_frames(path, 5, damaged=True)) == 5


def test_a_recording_that_begins_amid_a_group(tmp_path):
    """What comes before the first key frame cannot be shown by anybody; it is no damage."""
    for name, codec in (("a.ts", "libx264"), ("b.ts", "mpeg2video")):
        pictures = [textured(index) for index in range(40)]
        path = write_video(tmp_path / name, pictures, codec, gop=12, rate=25)
        content = path.read_bytes()
        path.write_bytes(content[len(content) // 6 // 188 * 188 :])
        with av.open(str(path)) as file:
            keys = [packet.is_keyframe for packet in file.demux(video=0)]
        assert not keys[0]
        _, frames = slow_frames(path)
        assert np.array_equal(sample_frames(path, len(frames)), np.stack(frames))


def test_a_header_that_says_more_frames(tmp_path):
    """The count in the header is not believed: AVI says how many frames there should be."""
    path = write_video(tmp_path / "a.avi", [textured(index) for index in range(20)], "mpeg4")
    _, frames = slow_frames(path)
    content = bytearray(path.read_bytes())
    total = content.index(b"avih") + 8 + 16
    length = content.index(b"strh") + 8 + 32
    assert struct.unpack_from("<I", content, total) == (20,)
    for place in (total, length):
        struct.pack_into("<I", content, place, 1000)
    path.write_bytes(content)
    with av.open(str(path)) as file:
        assert file.streams.video[0].frames == 1000
    assert np.array_equal(sample_frames(path, 3), np.stack([frames[i] for i in (0, 10, 19)]))
    with pytest.raises(InputError, match="got 20 frames"):
        sample_frames(path, 100)


def test_a_header_that_says_a_longer_time(tmp_path):
    path = write_video(tmp_path / "a.mkv", [grey(index) for index in range(20)])
    content = bytearray(path.read_bytes())
    place = content.index(b"\x44\x89\x88") + 3  # Duration, a float of 8 bytes
    struct.pack_into(">d", content, place, 1e6)
    path.write_bytes(content)
    with av.open(str(path)) as file:
        assert file.duration == 10**9
    video = sample_video(path, 3)
    assert levels(video.frames) == [0, 10, 19]
    assert video.times_s == pytest.approx((0, 1.0, 1.9), abs=0.02)


def test_an_animation_that_says_more_frames(tmp_path):
    pictures = [grey(index) for index in range(6)]
    path = save_gif(tmp_path / "a.png", pictures, 100)
    content = bytearray(path.read_bytes())
    place = content.index(b"acTL") + 4
    assert struct.unpack_from(">I", content, place) == (6,)
    import zlib

    struct.pack_into(">I", content, place, 9)
    struct.pack_into(">I", content, place + 8, zlib.crc32(content[place - 4 : place + 8]))
    path.write_bytes(content)
    with pytest.raises(InputError, match="damage"):
        sample_frames(path, 3)
    assert levels(sample_frames(path, 9, fewer=True, damaged=True)) == [0, 1, 2, 3, 4, 5]
