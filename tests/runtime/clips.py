"""Small video files with a story, and a slow second way to read them."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")
from PIL import Image  # noqa: E402

SIZE = (64, 48)  # width, height
RATE = 10
ONE_THREAD = "pools=none:frame-threads=1:log-level=none"


def grey(index, size=SIZE):
    """A picture of the level 5 ``index``: the mean of a frame tells its number."""
    return np.full((size[1], size[0], 3), 5 * index, np.uint8)


def textured(index, size=SIZE):
    """A noisy picture that moves, so that frames depend on one another."""
    noise = np.random.default_rng(0).integers(0, 60, (size[1], size[0], 3)).astype(np.uint8)
    return np.roll(noise, index, axis=1) + np.uint8(5 * index % 180)


def corners(size=SIZE):
    """A picture whose four quarters are 40, 100, 160, 220: left to right, then down."""
    width, height = size
    picture = np.empty((height, width, 3), np.uint8)
    half = height // 2, width // 2
    picture[: half[0], : half[1]], picture[: half[0], half[1] :] = 40, 100
    picture[half[0] :, : half[1]], picture[half[0] :, half[1] :] = 160, 220
    return picture


def quarters(picture):
    """The levels of the four quarters, left to right, then down."""
    height, width = picture.shape[:2]
    points = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return [int(picture[y, x].astype(int).mean()) for y, x in points]


def write_video(
    path,
    pictures,
    codec="libx264",
    *,
    form="yuv420p",
    stamps=None,
    unit=None,
    gop=None,
    b_frames=None,
    options=None,
    container=None,
    muxer=None,
    rate=RATE,
    set_up=lambda stream: None,
):
    """Write uint8 [H, W, 3 or 4] pictures, or ``av`` frames.

    Args: stamps, of each picture in ``unit``; set_up, called with the stream before it is opened.
    Skips the test where PyAV cannot write the codec.
    """
    require_encoder(codec)
    options = dict(options or {})
    if codec == "libx265":  # the same packets in every run
        given = options.get("x265-params")
        options["x265-params"] = ":".join(filter(None, (given, ONE_THREAD)))
    with av.open(str(path), "w", format=muxer, options=container or {}) as out:
        stream = out.add_stream(codec, rate=rate, options=options)
        first = pictures[0]
        array = isinstance(first, np.ndarray)
        stream.width = first.shape[1] if array else first.width
        stream.height = first.shape[0] if array else first.height
        stream.pix_fmt = form
        if gop is not None:
            stream.gop_size = gop
        if b_frames is not None:
            stream.max_b_frames = b_frames
        if unit is not None:
            stream.codec_context.time_base = unit
        set_up(stream)
        for index, picture in enumerate(pictures):
            frame = as_frame(picture, form)
            frame.pts = index if stamps is None else stamps[index]
            frame.time_base = unit or Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def as_frame(picture, form):
    if not isinstance(picture, np.ndarray):
        return picture
    given = "rgba" if picture.shape[2] == 4 else "rgb24"
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), given).reformat(format=form)


def require_encoder(codec):
    try:
        av.Codec(codec, "w")
    except ValueError:  # av.codec.codec.UnknownCodecError
        pytest.skip(f"this PyAV does not write {codec}")


def write_song(path, codec, *, cover=None, muxer=None):
    """Write two seconds of silence, with a cover of the given codec of a picture."""
    require_encoder(codec)
    with av.open(str(path), "w", format=muxer) as out:
        sound = out.add_stream(codec, rate=44100)
        sound.layout = "stereo"
        if cover is not None:
            picture = out.add_stream(cover, rate=1)
            picture.width, picture.height = 64, 64
            picture.pix_fmt = "yuvj420p" if cover == "mjpeg" else "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic
            out.mux(picture.encode(as_frame(np.full((64, 64, 3), 200, np.uint8), picture.pix_fmt)))
            out.mux(picture.encode())
        silence(out, sound, seconds=2)
    return path


def silence(out, sound, seconds):
    samples = sound.codec_context.frame_size or 1024
    for index in range(44100 * seconds // samples):
        frame = av.AudioFrame(sound.codec_context.format.name, "stereo", samples)
        frame.sample_rate, frame.pts = 44100, index * samples
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        out.mux(sound.encode(frame))
    out.mux(sound.encode())


def slow_frames(path, stream=0):
    """Decode everything, in one thread: times in seconds (None where unknown) and frames."""
    times, frames = [], []
    with av.open(str(path)) as file:
        for frame in file.decode(video=stream):
            times.append(frame.time)
            frames.append(frame.to_ndarray(format="rgb24"))
    return times, frames


def slow_sample(path, n):
    """``n`` frames by their times, each found by going through all."""
    times, frames = slow_frames(path)
    span = times[-1] - times[0]
    wanted = [times[0] + (span * k / (n - 1) if n > 1 else 0) for k in range(n)]
    nearest = [min(range(len(times)), key=lambda i: abs(times[i] - t)) for t in wanted]
    return np.stack([frames[i] for i in nearest])


def levels(frames):
    """The numbers of ``grey`` frames."""
    return (frames.mean(axis=(1, 2, 3)) / 5).round().astype(int).tolist()


def save_gif(path: Path, pictures, durations, **options):
    first, *rest = [Image.fromarray(picture) for picture in pictures]
    first.save(path, save_all=True, append_images=rest, duration=durations, **options)
    return path


def flat(levels_of_planes, form, **tags):
    frame = av.VideoFrame(64, 48, form)
    for plane, level in zip(frame.planes, levels_of_planes, strict=True):
        kind = np.uint16 if "10" in form else np.uint8
        plane.update(np.full(plane.buffer_size // kind().itemsize, level, kind).tobytes())
    for name, value in tags.items():
        setattr(frame, name, value)
    return frame


def tagged(path, frame, codec, **tags):
    def set_up(stream):
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)

    options = {"qp": "0"} if codec == "libx264" else {}
    form = frame.format.name
    return write_video(path, [frame] * 2, codec, form=form, options=options, set_up=set_up)
