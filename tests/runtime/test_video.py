"""Frames: the right ones, in the right form, or a clear refusal."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from aim_runtime import sample_frames
from aim_runtime.errors import InputError
from aim_runtime.prompts.video import pixel_values, sample_video
from aim_runtime.videos.packets import Packets
from tests.runtime.clips import (
    av,
    grey,
    levels,
    require_encoder,
    save_gif,
    slow_frames,
    textured,
    write_video,
)

from benchmarks.make_clip import make_clip  # isort: skip

ARRAYS = ("stamps", "decoded", "keys", "shown")
LEVELS = 40  # frame i of the grey video is filled with 5 i


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "grey.mp4"
    pictures = [grey(index, (48, 32)) for index in range(LEVELS)]
    return write_video(path, pictures, "mpeg4", set_up=lambda s: setattr(s, "bit_rate", 2_000_000))


@pytest.mark.parametrize("count", [1, 2, 7, 39, LEVELS])
def test_frames_are_spread_evenly_from_first_to_last(clip, count):
    frames = sample_frames(clip, count)
    assert frames.shape == (count, 32, 48, 3)
    assert frames.dtype == np.uint8
    indices = frames.mean(axis=(1, 2, 3)) / 5
    assert np.abs(indices - np.linspace(0, LEVELS - 1, count).round()).max() < 0.5


def test_times_are_those_of_the_frames(clip):
    video = sample_video(clip, 14)
    assert video.times_s == pytest.approx([0.3 * k for k in range(14)])
    assert video.seconds_per_frame == pytest.approx(0.3)
    with pytest.raises(InputError, match="at least two frames with times, got 1 frames"):
        _ = sample_video(clip, 1).seconds_per_frame


@pytest.mark.parametrize("change", [-3, 3])
def test_frames_are_counted_where_packets_mislead(clip, monkeypatch, change):
    expected = sample_frames(clip, 5)
    original = Packets.of_stream

    def misled(packets):
        found = original(packets)
        if change < 0:
            return replace(found, **{name: getattr(found, name)[:change] for name in ARRAYS})
        late = found.stamps[-change:] + 10**6
        return replace(
            found,
            stamps=np.append(found.stamps, late),
            decoded=np.append(found.decoded, late),
            keys=np.append(found.keys, [True] * change),
            shown=np.append(found.shown, [True] * change),
        )

    monkeypatch.setattr(Packets, "of_stream", misled)
    assert np.array_equal(sample_frames(clip, 5), expected)
    assert len(sample_frames(clip, LEVELS)) == LEVELS
    with pytest.raises(InputError, match=r"at least 41 frames, got 40 frames"):
        sample_frames(clip, LEVELS + 1)


def test_packets_that_hold_no_frame(tmp_path):
    """MPEG-2 may show frames before its first key that nothing can decode."""
    path = tmp_path / "open.ts"
    pictures = [textured(index) for index in range(30)]
    write_video(path, pictures, "mpeg2video", rate=25, gop=10, b_frames=2)
    content = path.read_bytes()
    path.write_bytes(content[len(content) // 8 // 188 * 188 :])  # begins amid a group
    _, frames = slow_frames(path)
    assert 20 < len(frames) < 30
    assert np.array_equal(sample_frames(path, len(frames)), np.stack(frames))
    with pytest.raises(InputError, match=f"got {len(frames)} frames"):
        sample_frames(path, len(frames) + 1)


def test_a_file_that_changes_while_it_is_read(clip, monkeypatch):
    from aim_runtime.videos.stream import VideoStream

    lengths = iter(range(30, 40))
    original = VideoStream._by_decoding

    def growing(stream, numbers):
        frames, timeline = original(stream, numbers)
        return frames, type(timeline)(timeline.stamps[: next(lengths)], timeline.unit)

    monkeypatch.setattr(VideoStream, "_by_decoding", growing)
    with pytest.raises(InputError, match="stays the same while it is read, got 30 frames, then 31"):
        sample_frames(clip, 25)


def test_too_few_frames_says_how_many(clip):
    with pytest.raises(InputError, match=r"at least 41 frames, got 40 frames.*at most 40"):
        sample_frames(clip, 41)
    assert np.array_equal(sample_frames(clip, 41, fewer=True), sample_frames(clip, 40))
    assert len(sample_frames(clip, 10**9, fewer=True)) == 40


@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_a_count_that_is_none(clip, count):
    with pytest.raises(InputError, match="frames: expected a whole number"):
        sample_frames(clip, count)


def test_one_frame(tmp_path):
    path = write_video(tmp_path / "one.mp4", [grey(30)])
    assert levels(sample_frames(path, 1)) == [30]
    assert sample_video(path, 4, fewer=True).times_s == (0,)
    with pytest.raises(InputError, match="at least 2 frames, got 1 frames"):
        sample_frames(path, 2)


@pytest.mark.parametrize(("name", "muxer"), [("none.mp4", None), ("none.mkv", None)])
def test_no_frame(tmp_path, name, muxer):
    require_encoder("libx264")
    path = tmp_path / name
    with av.open(str(path), "w", format=muxer) as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        out.start_encoding()
    for fewer in (False, True):
        with pytest.raises(InputError, match=r"none\.m.*: expected"):
            sample_frames(path, 2, fewer=fewer)


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (3, 5), (63, 47)])
def test_odd_sizes(tmp_path, size):
    pictures = [textured(index, size) for index in range(4)]
    path = write_video(tmp_path / "odd.mov", pictures, "png", form="rgb24")
    assert np.array_equal(sample_frames(path, 4), np.stack(pictures))


def test_odd_sizes_with_shared_colours(tmp_path):
    pictures = [grey(index, (63, 47)) for index in (10, 20, 30)]
    path = write_video(tmp_path / "odd.mkv", pictures, "ffv1")
    assert levels(sample_frames(path, 3)) == [10, 20, 30]


def test_a_size_that_changes_amid_the_video(tmp_path):
    """All frames come in the size of the first."""
    path = tmp_path / "sizes.mjpeg"
    parts = []
    for index, size in ((10, (64, 48)), (20, (32, 80)), (30, (16, 16))):
        one = write_video(tmp_path / "one.mjpeg", [grey(index, size)], "mjpeg", form="yuvj420p")
        parts.append(one.read_bytes())
    path.write_bytes(b"".join(parts))
    frames = sample_frames(path, 3)
    assert frames.shape == (3, 48, 64, 3)
    assert levels(frames) == [10, 20, 30]


def test_progress_is_told_and_may_interrupt(clip, tmp_path):
    told = []
    sample_frames(clip, 30, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, LEVELS) for done in range(1, LEVELS + 1)]
    told.clear()
    animation = save_gif(tmp_path / "a.gif", [grey(index) for index in range(5)], 100)
    sample_frames(animation, 2, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 5) for done in range(1, 6)]

    def interrupt(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_frames(clip, 30, progress=interrupt)
    assert len(sample_frames(clip, 30)) == 30


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


def test_pixel_values_are_those_of_siglip_preprocessing(tmp_path):
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
