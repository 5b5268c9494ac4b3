"""Packets: what a stream holds before anything is decoded, and what seeking in it would cost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

_DELAY = 16
"""Packets that most decoders take in, at most, before they give the first frame."""


@dataclass(frozen=True)
class Target:
    """A frame to reach.

    Args:
        stamp: when it is shown.
        place: among the packets.
        key_place: of the key to begin with; key_stamp, when that is shown; key_decoded, when it
            is decoded.
    """

    stamp: int
    place: int
    key_place: int
    key_stamp: int
    key_decoded: int

    def must_seek(self, at: int) -> bool:
        """Whether decoding on from place ``at`` takes longer than seeking."""
        return self.key_place > at + _DELAY


@dataclass(frozen=True)
class Packets:
    """The packets of a stream in the order of decoding, from the first key on.

    Args:
        stamps: int64 [n], when the frame of each is shown, in the units of the stream.
        decoded: int64 [n], when each is decoded.
        stamped: whether the file says so for all of them.
        keys: bool [n], where decoding can begin.
        shown: bool [n], False where an edit list leaves the frame out.
        late: whether packets before the first key, which nothing can decode, were left out.
    """

    stamps: np.ndarray
    decoded: np.ndarray
    stamped: bool
    keys: np.ndarray
    shown: np.ndarray
    late: bool

    @classmethod
    def of_stream(cls, packets: Iterable[Any]) -> "Packets":
        """Those of ``av.Packet``."""
        stamps, decoded, keys, shown = [], [], [], []
        for packet in packets:
            stamps.append(packet.pts)
            decoded.append(packet.pts if packet.dts is None else packet.dts)
            keys.append(bool(packet.is_keyframe))
            shown.append(not packet.is_discard)
        first = keys.index(True) if True in keys else 0
        stamped = None not in stamps
        if not stamped:
            stamps = decoded = [0] * len(keys)
        return cls(
            np.array(stamps[first:], np.int64),
            np.array(decoded[first:], np.int64),
            stamped,
            np.array(keys[first:], bool),
            np.array(shown[first:], bool),
            first > 0,
        )

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def _order(self) -> np.ndarray:
        """The place of each frame in the order shown."""
        shown = self.shown.copy()
        if self.late:  # frames shown before the first key need packets that were left out
            shown &= self.stamps >= self.stamps[0]
        places = np.flatnonzero(shown)
        return places[np.argsort(self.stamps[places], kind="stable")]

    def shown_stamps(self) -> tuple[int | None, ...]:
        """The stamps of the frames in the order shown."""
        if not self.stamped:
            return (None,) * len(self._order)
        return tuple(self.stamps[self._order].tolist())

    def has_key_at(self, stamp: int | None) -> bool:
        """Whether a packet of this stamp is a key."""
        return stamp is not None and stamp in self.stamps[self.keys]

    def targets(self, numbers: Sequence[int]) -> list[Target]:
        """Where to find the frames of the given numbers, each once; [] where stamps do not tell."""
        stamps = self.stamps[self._order]
        keys = np.flatnonzero(self.keys)
        if not self.stamped or not len(keys) or (np.diff(stamps) <= 0).any():
            return []
        found = []
        for number in dict.fromkeys(numbers):
            stamp, place = int(stamps[number]), int(self._order[number])
            last = int(np.searchsorted(keys, place, side="right")) - 1
            # a frame that is shown before a key needs packets before that key
            while last >= 0 and self.stamps[keys[last]] > stamp:
                last -= 1
            if last < 0:
                return []
            key = int(keys[last])
            found.append(Target(stamp, place, key, int(self.stamps[key]), int(self.decoded[key])))
        return found

    def seeking_pays(self, targets: Sequence[Target]) -> bool:
        """Whether seeking to the targets decodes fewer than half of the packets."""
        decoded, at = 0, 0
        for target in targets:
            start = target.key_place - _DELAY if target.must_seek(at) else at
            decoded += max(0, target.place - start)
            at = max(at, target.place)
        return bool(targets) and 2 * decoded < len(self)
