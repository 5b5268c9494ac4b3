"""Choice: which stream of a container is its video; a cover, a tile or a text is none."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aim_cost.imports import import_optional
from aim_runtime.errors import InputError

_NOT_VIDEOS = {
    **dict.fromkeys(("tty", "bin", "xbin", "adf", "idf"), "text art"),
    **dict.fromkeys(("hls", "concat", "dash", "sdp", "rtsp"), "a list of files"),
    **dict.fromkeys(("image2", "gif", "apng", "webp"), "a picture that Pillow cannot read"),
}
_JPEG = b"\xff\xd8"
_PICTURES = ("mjpeg", "png", "bmp", "gif", "webp")  # codecs of covers


def video_index(container: Any, path: Path, where: str) -> int:
    """The index of the video among all streams of an open ``av`` container.

    A stream with several frames before one with a single frame, then the default, then the larger
    one, then the first. It may read the container to its end.
    Raises: InputError where there is none, or none that can be decoded.
    """
    av = import_optional("av")
    got = _other_kind(container, path)
    if got is not None:
        raise _no_video(where, got)
    kind = av.stream.Disposition
    other = kind.attached_pic | kind.timed_thumbnails | kind.dependent
    videos = [stream for stream in container.streams.video if not stream.disposition & other]
    if not videos:
        raise _no_video(where, "none")
    known = [stream for stream in videos if stream.codec_context is not None]
    if not known:
        raise InputError(
            where,
            expected="a video that PyAV can decode",
            got="a codec that it lacks",
            fix="Convert it: ffmpeg -i FILE out.mp4.",
        )
    pictures = [stream for stream in known if stream.codec_context.name in _PICTURES]
    if len(known) == 1 and not (pictures and container.streams.audio):
        return int(known[0].index)
    single = _with_one_packet(container, known, av.FFmpegError)
    if len(known) == 1 and single:
        raise _no_video(where, "a sound with one picture")
    best = max(
        known,
        key=lambda stream: (
            stream.index not in single,
            bool(stream.disposition & kind.default),
            stream.width * stream.height,
        ),
    )
    return int(best.index)


def _other_kind(container: Any, path: Path) -> str | None:
    """What the file is if it is no video, as far as its format tells."""
    form = container.format.name
    if form.endswith("_pipe"):
        return "a picture that Pillow cannot read"
    if form == "mjpeg":  # found wherever something holds a JPEG: documents, other pictures
        with path.open("rb") as file:
            return None if file.read(2) == _JPEG else "a picture inside something else"
    return _NOT_VIDEOS.get(form)


def _with_one_packet(
    container: Any, streams: Sequence[Any], broken: type[Exception]
) -> frozenset[int]:
    """The indices of the streams that hold no more than one packet, as far as they can be read."""
    counts: Counter[int] = Counter()
    try:
        for packet in container.demux(tuple(streams)):
            counts[packet.stream.index] += bool(packet.size)
            if all(counts[stream.index] > 1 for stream in streams):
                break
    except broken:
        pass  # reading the video itself tells what is wrong
    return frozenset(stream.index for stream in streams if counts[stream.index] < 2)


def _no_video(where: str, got: str) -> InputError:
    return InputError(
        where,
        expected="a video stream",
        got=got,
        fix="Give a video, not a sound or text file; a cover is no video.",
    )
