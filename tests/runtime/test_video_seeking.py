"""Seeking gives the frames that decoding everything gives, or is not done."""

from dataclasses import replace

import numpy as np
import pytest

from aim_runtime.prompts.video import sample_frames
from aim_runtime.videos.packets import Packets
from aim_runtime.videos.stream import VideoStream
from tests.runtime.clips import slow_sample, textured, write_video

FRAMES = 120
OPEN = "open-gop=1:keyint=10:min-keyint=10"
FILES = {
    "a.mp4": ("libx264", {}),
    "b.mp4": ("mpeg4", {"b_frames": 2}),
    "hevc.mp4": ("libx265", {"options": {"x265-params": "keyint=10"}}),
    "av1.mp4": ("libsvtav1", {}),
    "parts.mp4": ("libx264", {"container": {"movflags": "frag_keyframe+empty_moov"}}),
    "open.mp4": ("libx264", {"options": {"x264-params": OPEN}}),
    "open_hevc.mkv": ("libx265", {"options": {"x265-params": OPEN}}),
    "a.mkv": ("libx264", {}),
    "live.mkv": ("libx264", {"container": {"live": "1"}}),
    "lossless.mkv": ("ffv1", {}),
    "mpeg2.mkv": ("mpeg2video", {"rate": 25, "b_frames": 2}),
    "vp9.webm": ("libvpx-vp9", {}),
    "vp8.webm": ("libvpx", {"options": {"auto-alt-ref": "1", "lag-in-frames": "16"}}),
    "a.avi": ("mpeg4", {"b_frames": 2}),
    "still.avi": ("mjpeg", {"form": "yuvj420p"}),
    "a.ts": ("libx264", {}),
    "open.ts": ("libx264", {"options": {"x264-params": OPEN}}),
    "mpeg2.ts": ("mpeg2video", {"rate": 25, "b_frames": 2}),
    "a.flv": ("libx264", {}),
    "a.ogv": ("libvpx", {"muxer": "ogg"}),
    "a.wmv": ("wmv2", {}),
    "a.mov": ("qtrle", {"form": "rgb24"}),
    "prores.mov": ("prores_ks", {"form": "yuv422p10le"}),
}


@pytest.fixture
def ways(monkeypatch):
    """How each read went: sought, missed, decoded."""
    seen = []
    by_seeking, by_decoding = VideoStream._by_seeking, VideoStream._by_decoding

    def seeking(stream, *arguments):
        frames = by_seeking(stream, *arguments)
        seen.append("missed" if frames is None else "sought")
        return frames

    def decoding(stream, *arguments):
        seen.append("decoded")
        return by_decoding(stream, *arguments)

    monkeypatch.setattr(VideoStream, "_by_seeking", seeking)
    monkeypatch.setattr(VideoStream, "_by_decoding", decoding)
    return seen


def decode_everything(path, n, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Packets, "seeking_pays", lambda *_: False)
        return sample_frames(path, n)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("gop", [3, 12])
def test_seeking_equals_decoding_everything(tmp_path, monkeypatch, ways, name, gop):
    codec, options = FILES[name]
    pictures = [textured(index) for index in range(FRAMES)]
    path = write_video(tmp_path / name, pictures, codec, gop=gop, **options)
    for n in (2, 4, 6, 50):
        frames = sample_frames(path, n)
        assert np.array_equal(frames, slow_sample(path, n))
        assert np.array_equal(frames, decode_everything(path, n, monkeypatch))
    sought = ways.count("sought")
    assert sought and "missed" not in ways
    assert ways.count("decoded") >= 4 + (4 - sought)


def test_a_key_that_is_no_whole_picture_is_not_sought(tmp_path, ways):
    """x264's periodic refresh marks packets as keys after which pictures mend strip by strip."""
    pictures = [textured(index) for index in range(FRAMES)]
    options = {"x264-params": "intra-refresh=1:keyint=12"}
    path = write_video(tmp_path / "a.mp4", pictures, options=options)
    assert np.array_equal(sample_frames(path, 2), slow_sample(path, 2))
    assert ways == ["missed", "decoded"]


def test_a_stream_without_times_is_not_sought(tmp_path, ways):
    pictures = [textured(index) for index in range(FRAMES)]
    path = write_video(tmp_path / "a.h264", pictures, gop=3)
    sample_frames(path, 3)
    assert ways == ["decoded"]


def test_a_container_that_leads_elsewhere(tmp_path, monkeypatch, ways):
    path = write_video(tmp_path / "a.mp4", [textured(i) for i in range(FRAMES)], gop=3)
    expected = slow_sample(path, 4)
    original = VideoStream._frames_from

    def elsewhere(stream, target, opened):
        later = target.key_decoded + 20 * 1024
        return original(stream, replace(target, key_decoded=later), opened)

    monkeypatch.setattr(VideoStream, "_frames_from", elsewhere)
    assert np.array_equal(sample_frames(path, 4), expected)
    assert ways == ["missed", "decoded"]


def test_few_frames_of_a_long_video_are_cheap(tmp_path):
    """Of 600 frames hardly more are decoded than those that lead to the three wanted."""
    pictures = [textured(index % 7) for index in range(600)]
    path = write_video(tmp_path / "a.mp4", pictures, "mpeg4", gop=12)
    told = []
    sample_frames(path, 3, progress=lambda done, total: told.append(total))
    assert set(told) == {3}
    decoded = []
    original = VideoStream._frames

    def counting(stream, opened):
        for frame in original(stream, opened):
            decoded.append(frame.pts)
            yield frame

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VideoStream, "_frames", counting)
        sample_frames(path, 3)
    assert len(decoded) < 60
