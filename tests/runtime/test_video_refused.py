"""What is no video is refused in one clear sentence, at once."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aim_runtime.errors import InputError
from aim_runtime.prompts.video import sample_frames
from tests.runtime.clips import grey, slow_sample, textured, write_video

ROOT = Path(__file__).parents[2]
TEXTS = {
    "notes.txt": "hello\nworld\n" * 50,
    "art.nfo": "\x1b[31mred\n" * 50,
    "list.ffconcat": "ffconcat version 1.0\nfile a.mp4\n",
    "list.m3u8": "#EXTM3U\n#EXTINF:4,\na.ts\n#EXT-X-ENDLIST\n",
    "words.srt": "1\n00:00:01,000 --> 00:00:02,000\nhi\n",
    "error.mp4": "<html><body>404 Not Found</body></html>\n",
    "cast.sdp": "v=0\nm=video 5004 RTP/AVP 96\n",
    "drawing.svg": "<svg xmlns='http://www.w3.org/2000/svg'/>\n",
    "umlaut.txt": "größer\n" * 20,
    "pointer.mp4": "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
}
BINARIES = {
    "zeros.mp4": bytes(5000),
    "zeros.yuv": bytes(64 * 48 * 3),
    "noise.mkv": np.random.default_rng(0).bytes(5000),
    "one.mp4": b"\0",
    "paper.pdf": b"%PDF-1.4\n" + bytes(1000),
    "packed.zip": b"PK\3\4" + bytes(1000),
    "numbers.npy": b"\x93NUMPY\1\0" + bytes(1000),
    "art.bin": bytes(range(256)) * 20,
    "art.txt": b"\0" + b"hello\n" * 100,
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_is_no_video(tmp_path, name):
    path = tmp_path / name
    path.write_text(TEXTS[name], encoding="utf-8")
    with pytest.raises(InputError, match=f"{name}: expected a video file .*, got a text file"):
        sample_frames(path, 2, fewer=True)


@pytest.mark.parametrize("name", BINARIES)
def test_other_files_are_no_videos(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(BINARIES[name])
    with pytest.raises(InputError, match=name):
        sample_frames(path, 2, fewer=True)


def test_no_file(tmp_path):
    (tmp_path / "empty.mp4").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nothing.mp4")
    for path, got in {
        tmp_path: "a folder",
        "": "a folder",
        tmp_path / "missing.mp4": "no such file",
        tmp_path / "gone.mp4": "no such file",
        tmp_path / "empty.mp4" / "x.mp4": "Not a directory",
        tmp_path / "loop.mp4": "symbolic links",
        tmp_path / "pipe.mp4": "a pipe or a device",
        "/dev/zero": "a pipe or a device",
        tmp_path / "empty.mp4": "an empty file",
        "https://example.com/a.mp4": "an address. Download it",
        "rtsp://example.com/a": "an address",
        "a\0b.mp4": "null byte",
        "x" * 5000: "too long",
    }.items():
        with pytest.raises(InputError, match=f"a video file that can be decoded, got .*{got}"):
            sample_frames(path, 2)
    for thing in (None, 5, b"a.mp4", ["a.mp4"], np.zeros((4, 8, 8, 3), np.uint8)):
        with pytest.raises(InputError, match=r"Give the path of a file\."):
            sample_frames(thing, 2)


@pytest.mark.parametrize(
    "name",
    ["a:b.mp4", "%03d.mp4", "ä ö.mp4", os.fsdecode(b"\xff\xfe.mp4"), "-y.mp4", "none", "a.txt",
     "http:.mp4", "a.png", "a'b\".mp4", "[a]*.mp4"],
)  # fmt: skip
def test_any_name_will_do(tmp_path, name, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", [textured(index) for index in range(5)])
    expected = slow_sample(path, 3)
    try:
        path.rename(tmp_path / name)
    except OSError:
        pytest.skip("this file system does not take the name")
    assert np.array_equal(sample_frames(tmp_path / name, 3), expected)
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(sample_frames(name, 3), expected)


def test_tags_that_are_no_text(tmp_path):
    path = write_video(tmp_path / "a.avi", [grey(index) for index in range(5)], "mpeg4")
    content = path.read_bytes()
    software = content.index(b"ISFT") + 8
    path.write_bytes(content[:software] + b"\xff\xfe\xfd" + content[software + 3 :])
    assert len(sample_frames(path, 5)) == 5


def test_the_command_says_it_in_one_line(tmp_path):
    pytest.importorskip("transformers")
    from tests.runtime.checkpoint import save_checkpoint

    checkpoint = save_checkpoint(tmp_path / "checkpoint")
    path = write_video(tmp_path / "a.mkv", [textured(index) for index in range(20)])
    path.write_bytes(path.read_bytes()[:-2000])
    command = [sys.executable, "-m", "aim_runtime.cli", "generate", "--model", checkpoint]
    command += ["--video", path, "--prompt", "what moves", "--frames", "4", "--dtype", "float32"]
    command += ["--max-new-tokens", "2", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and not done.stdout
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("error: video a.mkv: expected a whole video, got a file that was cut")
    assert "Traceback" not in done.stderr
    done = subprocess.run([*command, "--damaged"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
