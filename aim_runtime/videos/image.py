"""Image files: a picture as a video of one frame, an animation as a video, by Pillow."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from aim_runtime.errors import InputError
from aim_runtime.videos.album import Album, Progress
from aim_runtime.videos.file import require_whole
from aim_runtime.videos.limits import Limits
from aim_runtime.videos.picture import picture_of_image, pillow_errors, resized
from aim_runtime.videos.timeline import Timeline

_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
_FORMATS = (*_ANIMATED, "JPEG", "BMP", "TIFF")
_KIND_OF_PICTURE = 254
"""The TIFF tag whose lowest bit marks a smaller copy of another picture."""
_NO_DELAY_MS = 100
"""What browsers wait where a GIF says 0."""


class ImageFile:
    """An image file; of a JPEG with several pictures the first alone.

    Args: as those of ``VideoStream``.
    """

    def __init__(
        self,
        path: Path,
        where: str,
        limits: Limits,
        takes_damaged: bool,
        progress: Progress | None,
    ) -> None:
        self._path, self._where, self._limits = path, where, limits
        self._takes_damaged, self._progress = takes_damaged, progress
        if not takes_damaged:
            require_whole(path, where)
        stamps, now = [], 0
        for image in self._images():
            stamps.append(now)
            limits.require_frames(len(stamps), where)
            now += round(image.info.get("duration") or 0) or _NO_DELAY_MS
        self._timeline = Timeline(tuple(stamps), Fraction(1, 1000))

    def timeline(self) -> Timeline:
        """When the frames are shown."""
        return self._timeline

    def read(self, numbers: Sequence[int]) -> tuple[np.ndarray, Timeline]:
        """The frames of the given numbers, uint8 [n, H, W, 3], and the timeline."""
        album = Album(numbers, self._limits, self._where)
        for number, image in enumerate(self._images()):
            if album.wants(number):
                picture = picture_of_image(image, self._where)
                size = album.size(picture.shape[1], picture.shape[0])
                album.keep(number, resized(picture, size))
            if self._progress is not None:
                self._progress(number + 1, len(self._timeline))
        return album.frames, self._timeline

    def _images(self) -> Iterator[Image.Image]:
        """The decoded frames to the end, or to the first damage.

        Raises: InputError.
        """
        with pillow_errors(self._where):
            image = _open(self._path)
        with image:
            for number in self._numbers(image):
                try:
                    with pillow_errors(self._where):
                        image.seek(number)
                        image.load()
                except InputError:
                    if self._takes_damaged:
                        return
                    raise
                yield image

    def _numbers(self, image: Image.Image) -> range:
        """The numbers that Pillow gives the frames. Raises: InputError."""
        self._limits.require_size(*image.size, self._where)
        with pillow_errors(self._where):
            count = getattr(image, "n_frames", 1)
        is_copy = getattr(image, "tag_v2", {}).get(_KIND_OF_PICTURE, 0) & 1
        if image.format == "TIFF" and (count > 1 or is_copy):
            raise InputError(
                self._where,
                expected="a video or one picture",
                got=f"a TIFF of {count} pages" if count > 1 else "a raw photo with a preview",
                fix="Save the picture that you mean as PNG, or make a GIF of several.",
            )
        if image.format not in _ANIMATED or count == 1:
            return range(1)
        # the first picture of a PNG may be one for programs that do not know animations
        return range(int(bool(image.info.get("default_image"))), count)


def is_image(path: Path) -> bool:
    """Whether Pillow knows the format. Raw MJPEG looks like JPEG, so its name tells."""
    if path.suffix.lower() in (".mjpeg", ".mjpg"):
        return False
    try:
        with _open(path):
            return True
    except UnidentifiedImageError:
        return False
    except Exception:  # of a format that it knows; reading it tells what is wrong
        return True


def _open(path: Path) -> Image.Image:
    Image.init()
    return Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN])
