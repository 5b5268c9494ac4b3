"""TimeSource: where a predicted time comes from, and how that is said."""

from enum import StrEnum
from typing import NamedTuple


class TimeSource(StrEnum):
    """Where a predicted time comes from; the values stand in the column ``source`` of rows."""

    DATASHEET = "datasheet"  # a roofline on peaks
    MEASURED = "measured"  # a roofline on measured ceilings
    CALIBRATED = "calibrated"  # the device's own calibration
    INHERITED = "inherited"  # the calibration of another device, or of another width

    @property
    def noun(self) -> str:
        """For small print: ``calibration of this device``."""
        return _WORDS[self].noun

    @property
    def phrase(self) -> str:
        """After *predicted by*: ``a calibration of this device``."""
        return _WORDS[self].phrase

    @property
    def sentence(self) -> str:
        """Below a table."""
        return _WORDS[self].sentence


class _Words(NamedTuple):
    noun: str
    phrase: str
    sentence: str


_WORDS = {
    TimeSource.DATASHEET: _Words(
        "roofline on datasheet peaks, a lower bound",
        "a roofline on datasheet peaks",
        "Times are a roofline on datasheet peaks: a lower bound that no clock has seen.",
    ),
    TimeSource.MEASURED: _Words(
        "roofline on measured ceilings, a lower bound",
        "a roofline on measured ceilings",
        "Times are a roofline on measured ceilings: a lower bound.",
    ),
    TimeSource.CALIBRATED: _Words(
        "calibration of this device",
        "a calibration of this device",
        "Times come from a calibration of this device (aim-cost evaluate).",
    ),
    TimeSource.INHERITED: _Words(
        "calibration of another device",
        "the calibration of another device",
        "Times come from the calibration of another device or width, hence the band.",
    ),
}
