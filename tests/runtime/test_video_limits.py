"""Limits: a small file cannot fill the memory, and what is kept is known before."""

import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from aim_runtime.errors import InputError
from aim_runtime.prompts.video import sample_frames
from aim_runtime.videos.limits import Limits
from tests.runtime.clips import SIZE, av, grey, levels, require_encoder, save_gif, write_video

ROOT = Path(__file__).parents[2]
PIXELS = SIZE[0] * SIZE[1]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("limits")
    pictures = [grey(index) for index in range(20)]
    return (
        write_video(folder / "a.mp4", pictures, gop=2),
        write_video(folder / "a.ts", pictures),
        save_gif(folder / "a.gif", pictures, 100),
        save_gif(folder / "a.webp", pictures, 100, lossless=True),
    )


def test_each_limit_is_exact(clips):
    for path in clips:
        allowed = Limits(PIXELS, 20, 3 * PIXELS * 4)
        assert levels(sample_frames(path, 4, limits=allowed)) == [0, 6, 13, 19]
        for limits, message in (
            (Limits(frame_pixels=PIXELS - 1), f"1 to {PIXELS - 1} pixels"),
            (Limits(frames=19), "at most 19 frames in the file, got more"),
            (Limits(sampled_bytes=3 * PIXELS * 4 - 1), f"got {12 * PIXELS}: 4 frames of 64x48"),
        ):
            with pytest.raises(InputError, match=message):
                sample_frames(path, 4, limits=limits)


@pytest.mark.parametrize("name", ["frame_pixels", "frames", "sampled_bytes"])
def test_a_limit_that_is_none(name):
    with pytest.raises(InputError, match=f"limits.{name}: expected a whole number"):
        Limits(**{name: 0})


def test_the_limit_holds_for_the_size_as_it_is_shown(tmp_path):
    """A pixel a thousand times as wide as high makes a huge picture of a small one."""
    from fractions import Fraction

    def set_up(stream):
        stream.sample_aspect_ratio = Fraction(255, 1)

    path = write_video(tmp_path / "a.mp4", [grey(1, (640, 480))] * 2, "mpeg4", set_up=set_up)
    with pytest.raises(InputError, match="got 163200x480"):
        sample_frames(path, 1)


def big_files(folder):
    """Files of a few hundred kilobytes or less that hold frames of 70 million pixels and more."""
    size = (9000, 8000)
    files = {}
    for name, codec, form in (
        ("bomb.mp4", "png", "gray"),
        ("bomb.webm", "libvpx", "yuv420p"),
    ):
        require_encoder(codec)
        files[name] = folder / name
        with av.open(str(files[name]), "w") as out:
            stream = out.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = *size, form
            frame = av.VideoFrame(*size, form)
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            out.mux(stream.encode(frame))
            out.mux(stream.encode())
    files["bomb.png"] = folder / "bomb.png"
    files["bomb.png"].write_bytes(png(14000, 14000))
    files["wide.png"] = folder / "wide.png"
    files["wide.png"].write_bytes(png(10000, 7000))
    files["bomb.gif"] = folder / "bomb.gif"
    gif = b"GIF89a" + b"\xff\xff" * 2 + b"\x80\0\0" + bytes(3) + b"\xff" * 3
    image = b"\x2c" + bytes(4) + b"\xff\xff" * 2 + b"\0\x02\x02\x44\x01\0"
    files["bomb.gif"].write_bytes(gif + image * 3 + b";")
    return files


def png(width, height):
    """A grey PNG of zeros, without ever holding it."""
    packed = zlib.compressobj(9)
    row = bytes(width + 1)
    data = b"".join([packed.compress(row) for _ in range(height)] + [packed.flush()])
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    body = b"".join(
        len(part).to_bytes(4, "big") + kind + part + zlib.crc32(kind + part).to_bytes(4, "big")
        for kind, part in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def read_apart(n, *paths):
    """What ``sample_frames`` says to each path in another process, and the MiB that it took."""
    code = (
        "import resource, sys\n"
        "from aim_runtime.prompts.video import sample_frames\n"
        "import av, PIL.Image; PIL.Image.init()\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "for path in sys.argv[2:]:\n"
        "    try:\n        print(sample_frames(path, int(sys.argv[1])).shape)\n"
        "    except Exception as error:\n        print(type(error).__name__, error)\n"
        "print((peak() - before) // 1024)"
    )
    command = [sys.executable, "-c", code, str(n), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert not done.returncode, done.stderr
    *messages, taken = done.stdout.strip().splitlines()
    return messages[-len(paths) :], int(taken)


def test_bombs_are_refused_before_they_are_unpacked(tmp_path):
    files = big_files(tmp_path)
    assert all(path.stat().st_size < 500_000 for path in files.values())
    messages, taken = read_apart(1, *files.values())
    for name, message in zip(files, messages, strict=True):
        assert message.startswith(f"InputError video {name}: expected") and "pixels" in message
    assert taken < 60  # a single one of their frames has 70 MiB to 4 GiB


def test_only_the_sampled_frames_are_kept(tmp_path):
    paths = []
    for name, codec in (("a.mp4", "mpeg4"), ("a.h264", "libx264")):
        pictures = [np.full((1024, 1024, 3), 100, np.uint8)] * 200
        paths.append(write_video(tmp_path / name, pictures, codec))
    messages, taken = read_apart(2, *paths)
    assert messages == ["(2, 1024, 1024, 3)"] * 2
    assert taken < 200  # all frames have 600 MiB


def test_a_video_that_grows_in_its_middle(tmp_path):
    parts = []
    for size in ((64, 48), (400, 400)):
        one = write_video(tmp_path / "one.mjpeg", [grey(10, size)] * 2, "mjpeg", form="yuvj420p")
        parts.append(one.read_bytes())
    path = tmp_path / "grows.mjpeg"
    path.write_bytes(b"".join(parts))
    assert len(sample_frames(path, 4)) == 4
    with pytest.raises(InputError, match=r"grows\.mjpeg"):
        sample_frames(path, 4, limits=Limits(frame_pixels=100_000))
