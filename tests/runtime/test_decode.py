"""Timed decoding: what is timed is greedy decoding with the cache that the schedule left."""

import json

import pytest

from aim_cost.models.workload import Workload
from aim_cost.schedules.schedule import Schedule
from aim_runtime.errors import MeasurementError
from aim_runtime.measurement import decode as module
from aim_runtime.measurement.clock import ClockRecorder
from aim_runtime.measurement.decode import Decoding, measure_decode
from aim_runtime.models.load import load
from aim_runtime.seams import cache_of
from tests.runtime.support import tiny_config


def random_tiny():
    return load(tiny_config(layers=6), "cpu", "float32", random_weights=True)


SCHEDULES = [Schedule(), Schedule.parse("merge frame:3, prune linear:1:4")]
VIDEO = Workload(frames=3, text_tokens=6)


def test_rows_hold_the_cache_that_the_prefill_left():
    rows = measure_decode(random_tiny(), VIDEO, SCHEDULES, new_tokens=3, repeats=2)
    full, ragged = (row.cache_tokens for row in rows)
    assert set(full) == {3 * 9 + 1 + 6}
    assert ragged[0] == 3 * 3 + 1 + 6
    assert ragged[-1] < ragged[0]
    assert [row.key.run.schedule for row in rows] == SCHEDULES
    assert all(row.tpot_low_s <= row.tpot_s <= row.tpot_high_s for row in rows)
    written = json.loads(json.dumps([row.to_row() for row in rows]))
    assert [Decoding.of(row) for row in written] == rows


def test_the_time_is_per_token_and_a_median_after_one_untimed_round(monkeypatch):
    times = iter([100.0, 8.0, 2.0, 4.0])

    class Recorder(ClockRecorder):
        def seconds(self):
            return dict.fromkeys(super().seconds(), next(times))

    monkeypatch.setattr(module, "recorder_for", lambda device: Recorder())
    (row,) = measure_decode(random_tiny(), VIDEO, SCHEDULES[:1], new_tokens=2, repeats=3)
    assert row.tpot_s == 4.0 / 2
    assert row.repeats == 3


def test_every_token_is_decoded_with_a_cache_that_grows(monkeypatch):
    loaded, lengths = random_tiny(), []
    forward = loaded.model.forward

    def watched(*args, **kwargs):
        output = forward(*args, **kwargs)
        lengths.append(cache_of(output).get_seq_length())
        return output

    monkeypatch.setattr(loaded.model, "forward", watched)
    measure_decode(loaded, VIDEO, SCHEDULES[:1], new_tokens=3, repeats=1)
    prompt = 3 * 9 + 1 + 6
    assert lengths == [prompt, prompt + 1, prompt + 2, prompt + 3] * 2


def test_nothing_to_decode():
    with pytest.raises(MeasurementError, match="new_tokens"):
        measure_decode(random_tiny(), VIDEO, SCHEDULES, new_tokens=0)
