"""Where a time comes from is one kind, said in tables, in pictures and in verdicts alike."""

import pytest

from aim_cost import Case, Execution, Schedule, Workload
from aim_cost.devices.hardware import load_hardware
from aim_cost.timing.time_source import TimeSource

CASES = {
    TimeSource.CALIBRATED: ("h100-sxm", "eager"),
    TimeSource.INHERITED: ("l4", "eager"),
    TimeSource.DATASHEET: ("h100-sxm", "ideal"),
}


@pytest.mark.parametrize("source", CASES)
def test_an_estimate_says_where_its_times_come_from(source):
    hardware, mode = CASES[source]
    case = Case("llava-onevision-qwen2-0.5b", Workload(9, frames=2), hardware, Execution(mode=mode))
    found = case.price(Schedule())
    assert found.ttft.source is source
    assert found.to_row()["source"] == source.value
    assert source.sentence in " ".join(found.report().split())


def test_ceilings_that_a_clock_gave_are_told_from_a_datasheet():
    peaks = load_hardware("h100-sxm").peak
    bandwidth = peaks.memory_bandwidth_bytes_per_s
    assert not bandwidth.measured
    assert type(bandwidth)(1.0, "B/s", "measured: copy of 256 MiB").measured


def test_every_source_is_said_in_words_of_its_own():
    for said in ("noun", "phrase", "sentence"):
        assert len({getattr(source, said) for source in TimeSource}) == len(TimeSource)
    for source in TimeSource:
        assert source.phrase.split(" ", 1)[1] in source.noun
