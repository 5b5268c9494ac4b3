"""The video stream of a file: its packets, its frames, and seeking among them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, dropwhile
from pathlib import Path
from typing import Any

import numpy as np

from aim_cost.imports import import_optional
from aim_runtime.errors import InputError
from aim_runtime.videos.album import Album, Progress
from aim_runtime.videos.choice import video_index
from aim_runtime.videos.file import damaged, require_whole
from aim_runtime.videos.limits import Limits
from aim_runtime.videos.packets import Packets, Target
from aim_runtime.videos.picture import Orientation, picture_of_frame, shown_size
from aim_runtime.videos.timeline import Timeline

_WHOLE = (0, 1)
"""Kinds of pictures that need no other: unsaid, I."""
_SOUGHT_BY_SHOWN = ("matroska,webm",)  # others look for the time of decoding
_TRANSPARENT = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # decoders that know of transparency


@dataclass(frozen=True)
class Opened:
    """A file that is open, with its video stream and the decoder for it."""

    container: Any
    stream: Any
    decoder: Any


class VideoStream:
    """The best video stream of a file, by PyAV.

    Args:
        where: names the file in errors.
        takes_damaged: stop at the first damage, and take what comes before it.
        progress: called with the packets decoded and those to decode.
    """

    def __init__(
        self,
        path: Path,
        where: str,
        limits: Limits,
        takes_damaged: bool,
        progress: Progress | None,
    ) -> None:
        self._av = import_optional("av")
        self._path, self._where, self._limits = path, where, limits
        self._takes_damaged, self._progress = takes_damaged, progress
        self._may_seek = not takes_damaged  # what is damaged shows when everything is decoded
        if not takes_damaged:
            require_whole(path, where)
        with self._container() as container:
            self._index = video_index(container, path, where)
        with self._open() as opened:
            self._unit = opened.stream.time_base
            self._packets = Packets.of_stream(self._bounded(self._whole_packets(opened)))
            is_told = opened.decoder is opened.stream.codec_context
        self._orientation = None if is_told else self._first_orientation()

    def timeline(self) -> Timeline:
        """When the frames are shown as far as packets tell; ``read`` knows for certain."""
        return Timeline(self._packets.shown_stamps(), self._unit)

    def read(self, numbers: Sequence[int]) -> tuple[np.ndarray, Timeline]:
        """The frames of the given numbers, uint8 [n, H, W, 3], and the timeline that was met.

        It seeks where that is shorter and lands exactly, and decodes everything otherwise.
        """
        targets = self._packets.targets(numbers) if self._may_seek else []
        if self._packets.seeking_pays(targets):
            frames = self._by_seeking(numbers, targets)
            if frames is not None:
                return frames, self.timeline()
        return self._by_decoding(numbers)

    def _by_decoding(self, numbers: Sequence[int]) -> tuple[np.ndarray, Timeline]:
        album = Album(numbers, self._limits, self._where)
        stamps: list[int | None] = []
        with self._open() as opened:
            for frame in self._frames(opened):
                if album.wants(len(stamps)):
                    self._keep(album, len(stamps), frame, opened)
                stamps.append(frame.pts)
                self._limits.require_frames(len(stamps), self._where)
                self._tell(len(stamps), len(self._packets))
        timeline = Timeline(tuple(stamps), self._unit)
        self._may_seek = self._may_seek and timeline == self.timeline()
        return album.frames, timeline

    def _by_seeking(self, numbers: Sequence[int], targets: Sequence[Target]) -> np.ndarray | None:
        """The frames, or None where the file cannot be sought exactly."""
        album, at = Album(numbers, self._limits, self._where), 0
        with self._open() as opened:
            frames = self._frames(opened)
            for done, (number, target) in enumerate(
                zip(dict.fromkeys(numbers), targets, strict=True)
            ):
                self._tell(done, len(targets))
                try:
                    if target.must_seek(at):
                        frames = self._frames_from(target, opened)
                    frame = next(f for f in frames if f.pts is None or f.pts >= target.stamp)
                except (self._av.FFmpegError, InputError, StopIteration):
                    return None  # decoding everything tells whether the file is damaged
                if frame.pts != target.stamp:
                    return None
                self._keep(album, number, frame, opened)
                at = max(at, target.place)
        return album.frames

    def _frames_from(self, target: Target, opened: Opened) -> Iterator[Any]:
        """Decode from the key for ``target``, or from an earlier one.

        Raises: StopIteration where the container leads elsewhere, or to a key that is no picture
        of its own, as where pictures are refreshed strip by strip.
        """
        by_shown = opened.container.format.name in _SOUGHT_BY_SHOWN
        stamp = target.key_stamp if by_shown else target.key_decoded
        opened.container.seek(stamp, stream=opened.stream)
        opened.decoder.flush_buffers()
        frames = self._frames(opened)
        first = next(frames)
        if first.pict_type not in _WHOLE or not self._packets.has_key_at(first.pts):
            raise StopIteration
        return chain((first,), frames)

    def _keep(self, album: Album, number: int, frame: Any, opened: Opened) -> None:
        orientation = self._orientation or Orientation.of_frame(frame, self._where)
        width, height = shown_size(frame, opened.stream.sample_aspect_ratio)
        size = album.size(*orientation.size(width, height))
        picture = picture_of_frame(frame, orientation.size(*size))
        album.keep(number, orientation.upright(picture))

    def _first_orientation(self) -> Orientation | None:
        """The orientation for a decoder of our own, which the container does not tell it."""
        with self._open() as opened:
            frame = next(opened.container.decode(opened.stream), None)
            return frame and Orientation.of_frame(frame, self._where)

    def _frames(self, opened: Opened) -> Iterator[Any]:
        """Decode from where the container stands to the end, or to the first damage."""
        packets = self._whole_packets(opened)
        if self._packets.keys.any():
            packets = dropwhile(lambda packet: not packet.is_keyframe, packets)
        for packet in chain(packets, (None,)):  # None has the decoder give what it holds back
            try:
                decoded = opened.decoder.decode(packet)
            except self._av.FFmpegError as error:
                self._break_off(error.strerror)
                return
            for frame in decoded:
                if frame.is_corrupt:
                    self._break_off("a frame with errors")
                    return
                yield frame

    def _whole_packets(self, opened: Opened) -> Iterator[Any]:
        """The packets with something in them to the end, or to the first damage."""
        packets = opened.container.demux(opened.stream)
        while True:
            try:
                packet = next(packets, None)
            except self._av.FFmpegError as error:
                self._break_off(error.strerror)
                return
            if packet is None:
                return
            if packet.is_corrupt:
                self._break_off("a packet that is not whole")
                return
            if packet.size:
                yield packet

    def _bounded(self, packets: Iterator[Any]) -> Iterator[Any]:
        for count, packet in enumerate(packets, 1):
            self._limits.require_frames(count, self._where)
            yield packet

    def _break_off(self, got: str) -> None:
        """Raises: InputError unless what comes before the damage is wanted."""
        if not self._takes_damaged:
            raise damaged(self._where, f"damage: {got}")

    def _tell(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(min(done, total), total)

    @contextmanager
    def _open(self) -> Iterator[Opened]:
        """Raises: InputError over the limits; av.FFmpegError, OSError."""
        with self._container() as container:
            stream = container.streams[self._index]
            self._limits.require_size(stream.width, stream.height, self._where)
            decoder = self._decoder(stream)
            decoder.options = self._bound
            decoder.thread_type = "AUTO"
            yield Opened(container, stream, decoder)

    def _container(self) -> Any:
        # PyAV 19 takes tags that are no text by itself
        tags = {"metadata_errors": "ignore"} if int(self._av.__version__.split(".")[0]) < 19 else {}
        return self._av.open(
            f"file:{self._path.absolute()}",  # a name such as a:b.mp4 is no protocol
            **tags,
            options=self._bound,
            container_options={"protocol_whitelist": "file"},
        )

    @property
    def _bound(self) -> dict[str, str]:
        """Options by which decoders refuse larger frames."""
        return {"max_pixels": str(self._limits.frame_pixels)}

    def _decoder(self, stream: Any) -> Any:
        """The stream's own, unless it would leave out the transparency."""
        name = _TRANSPARENT.get(stream.codec_context.name)
        if name is None or stream.metadata.get("alpha_mode") != "1":
            return stream.codec_context
        decoder = self._av.CodecContext.create(name, "r")
        decoder.extradata = stream.codec_context.extradata
        return decoder
