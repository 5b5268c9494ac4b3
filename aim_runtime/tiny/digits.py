"""Handwritten digits and photographs from scikit-learn, in three disjoint splits."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from aim_cost.imports import import_optional

SPLITS = ("train", "validation", "test")
GLYPH_SIZES = (13, 14, 15, 16)
_VARIANTS = 8  # of each training digit: rotated, sheared, scaled
_DIGITS_OF = {"train": slice(0, 1197), "validation": slice(1197, 1397), "test": slice(1397, 1797)}
# of the width of a photograph
_STRIP_OF = {"train": (0.0, 0.6), "validation": (0.6, 0.75), "test": (0.75, 1.0)}
_DARKENING = 0.45
_SPLIT_SEED = 0

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Glyphs:
    """Digits of one split.

    Shapes: ink[glyphs, sizes, 16, 16] in 0 .. 1, one for each of GLYPH_SIZES, in the upper left
    corner; values[glyphs], the digits.
    """

    ink: Array
    values: NDArray[np.int64]


@cache
def glyphs(split: str) -> Glyphs:
    """The digits of a split; those for training come in eight affine variants each.

    Source: scikit-learn's copy of the UCI handwritten digits test set: 1797 scans of 8 x 8.
    Raises: MissingLibraryError without it.
    """
    data = import_optional("sklearn.datasets").load_digits()
    order = np.random.RandomState(_SPLIT_SEED).permutation(len(data.images))[_DIGITS_OF[split]]
    images = (data.images[order] / 16).astype(np.float32)
    values = data.target[order].astype(np.int64)
    if split == "train":
        rng = np.random.default_rng(_SPLIT_SEED)
        images = np.concatenate(
            [[_affine(image, rng) for image in images] for _ in range(_VARIANTS)]
        )
        values = np.tile(values, _VARIANTS)
    return Glyphs(np.stack([_sized(images, size) for size in GLYPH_SIZES], axis=1), values)


def _affine(image: Array, rng: np.random.Generator) -> Array:
    """Rotate by up to 12 degrees, shear by up to 0.15, scale by up to 10 %."""
    from scipy import ndimage

    angle, shear = np.deg2rad(rng.uniform(-12, 12)), rng.uniform(-0.15, 0.15)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1, shear], [0, 1]]) / rng.uniform(0.9, 1.1)
    centre = np.array([3.5, 3.5])
    moved: Array = ndimage.affine_transform(image, matrix, centre - matrix @ centre, order=1)
    return moved


def _sized(images: Array, size: int) -> Array:
    from scipy import ndimage

    canvas = np.zeros((len(images), max(GLYPH_SIZES), max(GLYPH_SIZES)), np.float32)
    scale = size / images.shape[1]
    canvas[:, :size, :size] = ndimage.zoom(images, (1, scale, scale), order=1).clip(0, 1)
    return canvas


@cache
def photographs(split: str) -> tuple[Array, ...]:
    """The strips of two photographs that belong to a split: [height, width, 3] in 0 .. 1, dark.

    Source: scikit-learn's china.jpg and flower.jpg. Raises: MissingLibraryError without it.
    """
    load_sample_image = import_optional("sklearn.datasets").load_sample_image
    strips = []
    for name in ("china.jpg", "flower.jpg"):
        image = load_sample_image(name)
        first, last = (int(share * image.shape[1]) for share in _STRIP_OF[split])
        strips.append((image[:, first:last] / 255 * _DARKENING).astype(np.float32))
    return tuple(strips)
