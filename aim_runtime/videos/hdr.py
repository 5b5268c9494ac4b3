"""HDR: what a screen of standard range shows of PQ and HLG pictures."""

from enum import IntEnum

import numpy as np

_REFERENCE_WHITE = 203.0  # cd/m2, ITU-R BT.2408
_BT2020_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)
_BT2020_TO_BT709 = np.array(  # ITU-R BT.2087
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    np.float32,
)
_ROWS = 128  # at a time, so that the memory needed does not grow with the picture


class Transfer(IntEnum):
    """How light is coded, by the numbers of ITU-T H.273."""

    PQ = 16
    HLG = 18


def standard_range(coded: np.ndarray, transfer: Transfer) -> np.ndarray:
    """BT.2020 colours ``coded`` by PQ or HLG as BT.709, what is brighter than white cut off.

    White is 203 cd/m2 of a screen of 1000. Formulas: ITU-R BT.2100, BT.1886.
    Args: coded, uint16 [H, W, 3]. Returns: uint8 [H, W, 3].
    """
    codes = np.arange(65536) / 65535
    table = (_pq(codes) if transfer is Transfer.PQ else _hlg(codes)).astype(np.float32)
    shown = np.empty(coded.shape, np.uint8)
    for start in range(0, len(coded), _ROWS):
        light = table[coded[start : start + _ROWS]]
        if transfer is Transfer.HLG:
            light = 1000 * (light @ _BT2020_LUMINANCE)[..., None] ** 0.2 * light
        white = np.clip(light @ _BT2020_TO_BT709.T / _REFERENCE_WHITE, 0, 1)
        shown[start : start + _ROWS] = np.round(255 * white ** (1 / 2.4))
    return shown


def _pq(codes: np.ndarray) -> np.ndarray:
    """Light in cd/m2."""
    root = codes ** (32 / 2523)
    above = np.maximum(root - 3424 / 4096, 0)
    light: np.ndarray = 10000 * (above / (2413 / 128 - 2392 / 128 * root)) ** (16384 / 2610)
    return light


def _hlg(codes: np.ndarray) -> np.ndarray:
    """Light of the scene, 1 at most."""
    bright = (np.exp((codes - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return np.where(codes <= 0.5, codes**2 / 3, bright)
