"""Frames: the right ones, in the right form, or a clear refusal."""

import numpy as np
import pytest
import torch

from aim_runtime import sample_frames
from aim_runtime.errors import InputError
from aim_runtime.prompts import video
from aim_runtime.prompts.video import pixel_values

av = pytest.importorskip("av")
from benchmarks.make_clip import make_clip  # noqa: E402

LEVELS = 40  # frame i of the grey video is filled with 5 i


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "grey.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.bit_rate = 2_000_000
        for index in range(LEVELS):
            picture = np.full((32, 48, 3), 5 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("count", [1, 2, 7, 39, LEVELS])
def test_frames_are_spread_evenly_from_first_to_last(grey, count):
    frames = sample_frames(grey, count)
    assert frames.shape == (count, 32, 48, 3)
    assert frames.dtype == np.uint8
    indices = frames.mean(axis=(1, 2, 3)) / 5
    assert np.abs(indices - np.linspace(0, LEVELS - 1, count).round()).max() < 0.5


@pytest.mark.parametrize("packets", [LEVELS - 3, LEVELS + 3])
def test_frames_are_counted_where_packets_mislead(grey, monkeypatch, packets):
    expected = sample_frames(grey, 5)
    monkeypatch.setattr(video, "_packets", lambda *_: packets)
    assert np.array_equal(sample_frames(grey, 5), expected)


def test_too_few_frames_says_how_many(grey):
    with pytest.raises(InputError, match=r"at least 41 frames, got 40 frames.*at most 40"):
        sample_frames(grey, 41)


@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_a_count_that_is_none(grey, count):
    with pytest.raises(InputError, match="frames: expected a whole number"):
        sample_frames(grey, count)


def test_a_file_that_is_no_video(grey, tmp_path):
    content = grey.read_bytes()
    files = {
        "missing.mp4": None,
        "empty.mp4": b"",
        "text.mp4": b"not a video\n" * 50,
        "truncated.mp4": content[: len(content) // 2],
    }
    for name, data in files.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=name):
            sample_frames(tmp_path / name, 2)
    with pytest.raises(InputError, match="decoded"):
        sample_frames(tmp_path, 2)


def test_sound_without_pictures(tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="a video stream"):
        sample_frames(path, 2)


def test_pixel_values_of_flat_frames():
    frames = np.stack([np.full((30, 50, 3), level, np.uint8) for level in (0, 255, 51)])
    values = pixel_values(frames, 24, mean=(0.5, 0.5, 0.25), std=(0.5, 0.25, 0.5))
    assert values.shape == (1, 3, 3, 24, 24)
    assert values.dtype == torch.float32
    flat = values[0].flatten(2)
    assert torch.equal(flat.amin(2), flat.amax(2))
    expected = (torch.tensor([[0.0], [1.0], [0.2]]) - torch.tensor([0.5, 0.5, 0.25])) / (
        torch.tensor([0.5, 0.25, 0.5])
    )
    torch.testing.assert_close(flat[:, :, 0], expected)


def test_pixel_values_are_those_of_siglip_preprocessing(grey, tmp_path):
    module = pytest.importorskip("transformers.models.siglip.image_processing_pil_siglip")
    make_clip(tmp_path / "clip.mp4", frames=4)
    frames = sample_frames(tmp_path / "clip.mp4", 3)
    processor = module.SiglipImageProcessorPil(
        size={"height": 96, "width": 96}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    theirs = processor(list(frames), return_tensors="pt").pixel_values
    torch.testing.assert_close(pixel_values(frames, 96, (0.5,) * 3, (0.5,) * 3)[0], theirs)


def test_the_demo_clip_is_small_moves_and_is_always_the_same(tmp_path):
    first, again, other = (tmp_path / f"{name}.mp4" for name in "abc")
    make_clip(first)
    make_clip(again)
    make_clip(other, seed=1)
    frames = sample_frames(first, 48)
    assert first.stat().st_size < 300_000
    assert all((frames[i] != frames[i + 1]).any() for i in range(47))
    assert np.array_equal(frames, sample_frames(again, 48))
    assert not np.array_equal(frames, sample_frames(other, 48))
    with pytest.raises(InputError, match="got 48 frames"):
        sample_frames(first, 49)
