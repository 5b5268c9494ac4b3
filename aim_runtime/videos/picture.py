"""Pictures: a decoded frame or a Pillow image as upright RGB with square pixels."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from aim_cost.errors import AimError
from aim_runtime.errors import InputError
from aim_runtime.videos.file import damaged
from aim_runtime.videos.hdr import Transfer, standard_range

_WHITE = 255  # what transparent pictures lie on
_FULL_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_UNKNOWN_WHITE = ("I", "F")


@dataclass(frozen=True)
class Orientation:
    """How a stored frame becomes an upright one: transposed first, then flipped."""

    transposed: bool = False
    flipped_across: bool = False
    flipped_down: bool = False

    @classmethod
    def of_frame(cls, frame: Any, where: str) -> "Orientation":
        """The orientation by the display matrix of an ``av.VideoFrame``.

        The matrix sends (x, y) to (a x + c y, b x + d y), y downwards; libavutil, display.h.
        Raises: InputError for a rotation by other than quarters.
        """
        data = frame.side_data.get("DISPLAYMATRIX")
        if data is None:
            return cls()
        a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
        along, across = max(abs(a), abs(d)), max(abs(b), abs(c))
        if min(along, across) > max(along, across) / 100:
            raise InputError(
                where,
                expected="a rotation by a quarter, a half or three quarters",
                got="another angle",
                fix="Turn it upright: ffmpeg -i FILE out.mp4.",
            )
        if across > along:
            return cls(True, c < 0, b < 0)
        return cls(False, a < 0, d < 0)

    def upright(self, pixels: np.ndarray) -> np.ndarray:
        """``pixels`` [H, W, channels] as they are shown."""
        if self.transposed:
            pixels = pixels.swapaxes(0, 1)
        down = -1 if self.flipped_down else 1
        across = -1 if self.flipped_across else 1
        return pixels[::down, ::across]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after turning; the same turns them back."""
        return (height, width) if self.transposed else (width, height)


def shown_size(frame: Any, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """Width and height of an ``av.VideoFrame`` before turning, the shorter side stretched.

    Args: pixel_aspect, the width of a pixel by its height; None or 0 where it is unknown.
    """
    aspect = pixel_aspect or Fraction(1)
    if aspect > 1:
        return round(frame.width * aspect), frame.height
    return frame.width, round(frame.height / aspect)


def picture_of_frame(frame: Any, size: tuple[int, int]) -> np.ndarray:
    """An ``av.VideoFrame`` scaled to ``size`` (width, height), not turned yet.

    The matrix and range of the colours are those of the frame's tags, BT.601 without any.
    Returns: uint8 [H, W, 3], RGB.
    """
    width, height = size

    def pixels(form: str) -> np.ndarray:
        array: np.ndarray = frame.to_ndarray(format=form, width=width, height=height)
        return array

    transparent = frame.format.name == "pal8" or any(c.is_alpha for c in frame.format.components)
    if frame.color_trc in set(Transfer):
        picture = standard_range(pixels("rgb48le"), Transfer(frame.color_trc))
        return _on_white(picture, pixels("rgba")[..., 3:]) if transparent else picture
    if transparent:
        picture = pixels("rgba")
        return _on_white(picture[..., :3], picture[..., 3:])
    return pixels("rgb24")


def picture_of_image(image: Image.Image, where: str) -> np.ndarray:
    """A Pillow image, turned as its EXIF says; its colour profile is not applied.

    Returns: uint8 [H, W, 3], RGB.
    Raises: InputError for an image that does not decode, or whose white is unknown.
    """
    with pillow_errors(where):
        return _picture(ImageOps.exif_transpose(image), where)


@contextmanager
def pillow_errors(where: str) -> Iterator[None]:
    """Raises: InputError for whatever Pillow raises."""
    try:
        yield
    except (AimError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise InputError(
            where,
            expected="a picture of at most twice PIL.Image.MAX_IMAGE_PIXELS pixels",
            got="more",
            fix="Scale it down.",
        ) from error
    except Exception as error:  # OSError, SyntaxError, EOFError, RuntimeError, TypeError and more
        raise damaged(where, f"damage: {str(error).rstrip('.')}") from error


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``picture`` [H, W, 3] in ``size`` (width, height), bicubic."""
    height, width = picture.shape[:2]
    if (width, height) == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def _picture(image: Image.Image, where: str) -> np.ndarray:
    if image.mode in _SIXTEEN_BITS:
        grey = np.asarray(image).astype(np.uint32)
        return np.stack([((grey + 128) // 257).astype(np.uint8)] * 3, axis=-1)
    if image.mode in _UNKNOWN_WHITE:
        raise InputError(
            where,
            expected="a picture of 8 or 16 bits a channel",
            got=f"mode {image.mode}",
            fix="Scale its values to 8 bits, and save it as PNG.",
        )
    if image.mode in _FULL_ALPHA or "transparency" in image.info:
        picture = np.asarray(image.convert("RGBA"))
        return _on_white(picture[..., :3], picture[..., 3:])
    return np.asarray(image.convert("RGB"))


def _on_white(picture: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Lay uint8 [H, W, 3] on white by alpha, uint8 [H, W, 1]."""
    share = alpha.astype(np.uint16)
    mixed = picture * share + _WHITE * (255 - share)
    return ((mixed + 127) // 255).astype(np.uint8)
