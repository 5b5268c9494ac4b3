"""The video among the streams of a file: never a cover, a sound or a text."""

import numpy as np
import pytest
from PIL import Image

from aim_runtime.errors import InputError
from aim_runtime.prompts.video import sample_frames
from tests.runtime.clips import (
    as_frame,
    av,
    grey,
    levels,
    require_encoder,
    silence,
    write_song,
    write_video,
)

DEFAULT = av.stream.Disposition.default
COVER = av.stream.Disposition.attached_pic
NONE = av.stream.Disposition(0)


def write_streams(path, streams, *, sound=False):
    """Write streams of (codec, size, level, frames, disposition) side by side."""
    with av.open(str(path), "w") as out:
        made = []
        for codec, size, level, count, disposition in streams:
            require_encoder(codec)
            stream = out.add_stream(codec, rate=10)
            stream.width, stream.height = size
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = disposition
            made.append((stream, level, count))
        audio = out.add_stream("aac", rate=44100) if sound else None
        if audio is not None:
            audio.layout = "stereo"
        for stream, level, count in made:
            for _ in range(count):
                picture = grey(level, (stream.width, stream.height))
                out.mux(stream.encode(as_frame(picture, stream.pix_fmt)))
            out.mux(stream.encode())
        if audio is not None:
            silence(out, audio, seconds=1)
    return path


@pytest.mark.parametrize(
    ("name", "codec", "cover"),
    [
        ("plain.mp3", "libmp3lame", None),
        ("song.mp3", "libmp3lame", "mjpeg"),
        ("song.mp3", "libmp3lame", "png"),
        ("plain.wav", "pcm_s16le", None),
        ("plain.flac", "flac", None),
        ("song.flac", "flac", "mjpeg"),
        ("song.mp4", "aac", "mjpeg"),
        ("plain.m4a", "aac", None),
        ("plain.ogg", "flac", None),
        ("remuxed.mka", "flac", "mjpeg"),  # Matroska forgets that it was a cover
        ("remuxed.mkv", "aac", "mjpeg"),
    ],
)
@pytest.mark.parametrize("fewer", [False, True])
def test_a_song_is_no_video(tmp_path, name, codec, cover, fewer):
    muxer = {".mka": "matroska", ".m4a": "ipod"}.get(name[name.index(".") :])
    path = write_song(tmp_path / name, codec, cover=cover, muxer=muxer)
    with pytest.raises(InputError, match=r"a video stream, got .*Give a video, not a sound"):
        sample_frames(path, 1, fewer=fewer)


def test_a_picture_attached_to_a_song(tmp_path):
    path = tmp_path / "song.mkv"
    Image.new("RGB", (64, 64), (200, 200, 200)).save(tmp_path / "cover.jpg")
    with av.open(str(path), "w") as out:
        audio = out.add_stream("flac", rate=44100)
        audio.layout = "stereo"
        out.add_attachment("cover.jpg", "image/jpeg", (tmp_path / "cover.jpg").read_bytes())
        silence(out, audio, seconds=1)
    with av.open(str(path)) as file:
        assert [stream.type for stream in file.streams] == ["audio", "video"]
    with pytest.raises(InputError, match="a video stream, got none"):
        sample_frames(path, 1, fewer=True)


@pytest.mark.parametrize("first", [True, False])
def test_the_cover_of_a_video_is_not_its_video(tmp_path, first):
    streams = [("mjpeg", (320, 320), 50, 1, COVER), ("mpeg4", (48, 32), 20, 10, DEFAULT)]
    path = write_streams(tmp_path / "a.mp4", streams if first else streams[::-1])
    frames = sample_frames(path, 10)
    assert frames.shape == (10, 32, 48, 3)
    assert set(levels(frames)) == {20}


@pytest.mark.parametrize("sound", [False, True])
def test_a_cover_that_lost_its_mark(tmp_path, sound):
    """In Matroska a cover that was copied is a video of one frame; the longer one is meant."""
    streams = [("mjpeg", (320, 320), 50, 1, DEFAULT), ("mpeg4", (48, 32), 20, 10, NONE)]
    path = write_streams(tmp_path / "a.mkv", streams, sound=sound)
    assert set(levels(sample_frames(path, 10))) == {20}


@pytest.mark.parametrize(
    ("dispositions", "meant"),
    [((DEFAULT, NONE), 10), ((NONE, DEFAULT), 30), ((NONE, NONE), 30), ((DEFAULT, DEFAULT), 30)],
)
def test_the_default_video_or_else_the_larger_one(tmp_path, dispositions, meant):
    sizes = zip(((48, 32), (64, 48)), (10, 30), dispositions, strict=True)
    streams = [("mpeg4", size, level, 5, disposition) for size, level, disposition in sizes]
    path = write_streams(tmp_path / "a.mkv", streams)
    assert set(levels(sample_frames(path, 5))) == {meant}


def test_the_first_of_equal_videos(tmp_path):
    streams = [("mpeg4", (48, 32), level, 5, NONE) for level in (10, 30)]
    path = write_streams(tmp_path / "a.mkv", streams)
    assert set(levels(sample_frames(path, 5))) == {10}


def test_sound_longer_than_the_video(tmp_path):
    streams = [("mpeg4", (48, 32), 20, 3, DEFAULT)]
    path = write_streams(tmp_path / "a.mp4", streams, sound=True)
    assert levels(sample_frames(path, 3)) == [20] * 3
    with pytest.raises(InputError, match="got 3 frames"):
        sample_frames(path, 4)


def test_motion_jpeg_with_sound_is_a_video(tmp_path):
    streams = [("mjpeg", (48, 32), 20, 5, NONE)]
    path = write_streams(tmp_path / "a.mkv", streams, sound=True)
    assert np.array_equal(levels(sample_frames(path, 5)), [20] * 5)


def test_a_codec_that_nobody_decodes(tmp_path):
    path = write_video(tmp_path / "a.avi", [grey(10)] * 3, "mpeg4")
    unknown = path.read_bytes().replace(b"FMP4", b"Q!Q!").replace(b"fmp4", b"q!q!")
    path.write_bytes(unknown)
    with pytest.raises(InputError, match=r"that PyAV can decode.*ffmpeg -i FILE out.mp4"):
        sample_frames(path, 2)
