"""Frames by time: even in seconds, whatever the distances of the frames and their stamps."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aim_runtime.prompts.video import sample_frames, sample_video
from aim_runtime.videos.timeline import Timeline
from tests.runtime.clips import (
    av,
    grey,
    levels,
    save_gif,
    slow_frames,
    slow_sample,
    textured,
    write_video,
)

MS = Fraction(1, 1000)
SLOWER = [0, 33, 67, 100, 133, 167, 200, 1200, 2200, 3200, 4200, 5200]
HELD = [0, 40, 80, 120, 9000, 9040, 9080]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
@pytest.mark.parametrize("stamps", [SLOWER, HELD, [s + 5000 for s in SLOWER]])
@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_frames_lie_evenly_in_time(tmp_path, name, stamps, n):
    pictures = [grey(index) for index in range(len(stamps))]
    path = write_video(tmp_path / name, pictures, stamps=stamps, unit=MS)
    video = sample_video(path, n)
    assert np.array_equal(video.frames, slow_sample(path, n))
    times = [stamp - stamps[0] for stamp in stamps]
    wanted = np.linspace(0, times[-1], n)
    expected = [int(np.abs(np.array(times) - t).argmin()) for t in wanted]
    assert levels(video.frames) == expected
    assert video.times_s == pytest.approx([times[i] / 1000 for i in expected])


def test_a_frame_that_stays_stands_for_each_of_its_times(tmp_path):
    path = write_video(tmp_path / "a.mp4", [grey(i) for i in range(7)], stamps=HELD, unit=MS)
    assert levels(sample_frames(path, 6)) == [0, 3, 3, 4, 4, 6]
    assert levels(sample_frames(path, 7)) == [0, 1, 2, 3, 4, 5, 6]  # all there are, each once


def test_the_edit_list_of_a_trimmed_video_is_kept(tmp_path):
    """Frames before the cut are in the file, but nobody is shown them."""
    for codec in ("libx264", "mpeg4"):
        path = write_video(
            tmp_path / f"{codec}.mp4",
            [textured(index) for index in range(12)],
            codec,
            stamps=[index - 5 for index in range(12)],
            container={"avoid_negative_ts": "disabled", "use_editlist": "1"},
        )
        with av.open(str(path)) as file:
            assert sum(packet.is_discard for packet in file.demux(video=0)) == 5
        video = sample_video(path, 7)
        assert np.array_equal(video.frames, np.stack(slow_frames(path)[1]))
        assert video.times_s == pytest.approx([k / 10 for k in range(7)])


def test_frames_are_in_the_order_shown_not_decoded(tmp_path):
    pictures = [textured(index) for index in range(30)]
    path = write_video(
        tmp_path / "a.mkv",
        pictures,
        "mpeg4",
        b_frames=2,
        gop=12,
        set_up=lambda stream: setattr(stream, "bit_rate", 2_000_000),
    )
    with av.open(str(path)) as file:
        stamps = [packet.pts for packet in file.demux(video=0) if packet.size]
    assert stamps != sorted(stamps)
    brightness = sample_frames(path, 30).mean(axis=(1, 2, 3))
    assert np.abs(np.diff(brightness) - 5).max() < 3  # each picture is 5 brighter than the last


def test_a_raw_stream_without_times_is_sampled_by_number(tmp_path):
    path = write_video(tmp_path / "a.h264", [grey(index) for index in range(30)])
    video = sample_video(path, 4)
    assert levels(video.frames) == [0, 10, 19, 29]
    assert video.times_s is None
    with pytest.raises(Exception, match="at least two frames with times, got no times"):
        _ = video.seconds_per_frame


def test_times_that_jump_back_are_no_times(tmp_path):
    """Two recordings in one program stream, each from the start."""
    parts = []
    for start in (0, 10):
        pictures = [grey(start + index) for index in range(10)]
        one = write_video(tmp_path / "one.mpg", pictures, "mpeg2video", rate=25)
        parts.append(one.read_bytes())
    path = tmp_path / "two.mpg"
    path.write_bytes(b"".join(parts))
    times, frames = slow_frames(path)
    assert times != sorted(times) and len(frames) == 20
    video = sample_video(path, 5)
    assert video.times_s is None
    assert levels(video.frames) == [0, 5, 10, 14, 19]


@pytest.mark.parametrize("options", [{"live": "1"}, {}])
def test_a_live_recording_without_duration(tmp_path, options):
    pictures = [textured(index) for index in range(20)]
    path = write_video(tmp_path / "live.mkv", pictures, container=options)
    with av.open(str(path)) as file:
        assert (file.duration is None) == bool(options)
    assert np.array_equal(sample_frames(path, 8), slow_sample(path, 8))


def test_the_rate_in_the_header_is_not_believed(tmp_path):
    pictures = [grey(index) for index in range(10)]
    path = write_video(tmp_path / "a.mkv", pictures, stamps=SLOWER[:10], unit=MS, rate=50)
    assert sample_video(path, 2).times_s == pytest.approx((0, SLOWER[9] / 1000))


def test_delays_of_an_animation(tmp_path):
    pictures = [grey(index) for index in range(5)]
    path = save_gif(tmp_path / "a.gif", pictures, [100, 100, 100, 700, 100])
    video = sample_video(path, 3)
    assert levels(video.frames) == [0, 3, 4]
    assert video.times_s == pytest.approx((0, 0.3, 1.0))


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=40),
    st.integers(-1000, 1000),
    st.integers(1, 50),
)
def test_the_spread_of_any_stamps(gaps, start, n):
    stamps = tuple((np.cumsum(gaps) + start).tolist())
    line = Timeline(stamps, Fraction(1, 1000))
    numbers = list(line.spread(n))
    assert len(numbers) == min(n, len(stamps))
    assert numbers == sorted(numbers) and numbers[0] == 0
    times = np.array(stamps) - stamps[0]
    if n >= len(stamps):
        assert numbers == list(range(len(stamps)))
    elif times[-1]:
        for number, wanted in zip(numbers, np.linspace(0, times[-1], n), strict=True):
            assert abs(times[number] - wanted) <= np.abs(times - wanted).min() + 1e-3
    assert len(set(numbers)) == len(numbers) or times[-1]


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 1001, 3003, 512]))
def test_even_stamps_are_sampled_by_number_to_the_last_tie(count, n, step):
    stamps = tuple(range(7 * step, (7 + count) * step, step))
    expected = np.linspace(0, count - 1, min(n, count)).round().astype(int)
    assert list(Timeline(stamps, Fraction(1, 30000)).spread(n)) == expected.tolist()
