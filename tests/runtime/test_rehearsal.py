"""A rehearsal: the campaign's own code on a device whose clock is the model with noise."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from aim_cost.devices.hardware import load_hardware
from aim_runtime.campaigns import stand_in as module
from aim_runtime.campaigns.campaign import run_campaign
from aim_runtime.campaigns.file import CAMPAIGN, CampaignFile
from aim_runtime.campaigns.stand_in import StandIn
from aim_runtime.campaigns.step import KernelStep, PrefillStep
from aim_runtime.campaigns.steps import default_steps
from aim_runtime.measurement.row_key import RowKey

HARDWARE = load_hardware("h100-sxm")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Asked once: a rehearsal of hundreds of steps would call git for each."""
    facts = module.environment()
    monkeypatch.setattr(module, "environment", lambda: facts)


def steps_of(count=16):
    return default_steps()[:count]


def run(folder, *, minutes=60.0, steps=None, retry=False, **options):
    device = StandIn(HARDWARE, **options)
    file = run_campaign(steps or steps_of(), folder, device, minutes=minutes, retry=retry)
    return device, file


def rehearse(folder):
    """What the process does that is killed."""
    run(Path(folder))


def complete_rows(file):
    """Rows of steps that are whole, by key; every key is there once."""
    keys = [row.key for row in file.rows]
    assert len(set(keys)) == len(keys), "a row is double"
    assert all(row.repeats or row.error for row in file.rows)
    wanted = {key: step.rounds for step in steps_of() if hasattr(step, "rounds")
              for key in StandIn(HARDWARE).setting.row_keys(step)}  # fmt: skip
    return {
        key: row
        for key, row in zip(keys, file.rows, strict=True)
        if row.repeats >= wanted.get(key, 5)
    }


def all_keys(steps):
    setting = StandIn(HARDWARE).setting
    return {key for step in steps for key in setting.row_keys(step)}


def test_a_campaign_measures_everything_once(tmp_path):
    device, file = run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CAMPAIGN, "predictions.json"]
    first = {key for key in complete_rows(file) if key.visit == 1}
    assert first == all_keys(steps_of())
    assert len(file.kernels) == sum(isinstance(step, KernelStep) for step in steps_of())
    assert [record.status for record in file.steps] == ["done"] * (len(steps_of()) + 1)
    for row in file.rows:
        record = file.steps[row.origin.step_number]
        assert row.origin.begun_at == record.begun_at
        assert row.origin.torch == torch.__version__
        assert row.key.hardware == "stand-in for h100-sxm"
        assert row.origin.rehearsal and record.environment.rehearsal
        assert row.key.attention_backend in ("cudnn", "flash")
        assert record.before.sm_clock_mhz and record.after.sm_clock_mhz
    assert device.now() < sum(record.predicted_seconds for record in file.steps)
    _, again = run(tmp_path)
    assert (again.rows, again.steps) == (file.rows, file.steps)


def test_twenty_kills_lose_no_row_and_double_none(tmp_path):
    chance, killed = random.Random(1), []
    kept: dict[RowKey, dict] = {}
    for kill in range(20):
        ticks, last = 0, chance.randint(1, 110)

        def strike(_now, kill=kill, last=last):
            nonlocal ticks
            ticks += 1
            if ticks == last:
                killed.append(kill)
                raise (KeyboardInterrupt, SystemExit)[kill % 2]

        with suppress(KeyboardInterrupt, SystemExit):
            run(tmp_path, seed=kill, on_tick=strike)
        rows = complete_rows(CampaignFile(tmp_path))
        assert {key: rows.get(key) for key in kept} == kept
        kept = rows
    _, file = run(tmp_path)
    rows = complete_rows(file)
    assert {key: rows[key] for key in kept} == kept
    assert {key for key in rows if key.visit == 1} == all_keys(steps_of())
    assert len(file.kernels) == 2
    assert len(killed) == 20
    assert sum(record.status == "stopped" for record in file.steps) == 20


def test_a_process_that_is_killed_goes_on(tmp_path):
    rows_first = random.Random().randint(11, 50)  # another moment each time
    script = "import sys; from tests.runtime.test_rehearsal import rehearse; rehearse(sys.argv[1])"
    command = [sys.executable, "-c", script, str(tmp_path)]
    path = tmp_path / CAMPAIGN
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(command, stdout=nowhere, stderr=nowhere)
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            if path.exists() and len(json.loads(path.read_text())["rows"]) >= rows_first:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    before = complete_rows(CampaignFile(tmp_path))
    assert before
    _, file = run(tmp_path)
    rows = complete_rows(file)
    assert {key: rows[key] for key in before} == before
    assert {key for key in rows if key.visit == 1} == all_keys(steps_of())
    assert sorted(found.name for found in tmp_path.iterdir()) == [CAMPAIGN, "predictions.json"]


def test_a_step_that_fails_is_noted_and_the_next_goes_on(tmp_path, monkeypatch):
    steps, original, freed = steps_of(), StandIn.prefill, []

    def prefill(self, step, store):
        if step in (steps[0], steps[4]):
            raise RuntimeError("device-side\nassert")
        original(self, step, store)

    monkeypatch.setattr(StandIn, "prefill", prefill)
    monkeypatch.setattr(StandIn, "free", lambda self: freed.append(self))
    _, file = run(tmp_path)
    statuses = [record.status for record in file.steps]
    assert statuses == ["failed", *["done"] * 3, "failed", *["done"] * (len(steps) - 5)]
    failed = [record for record in file.steps if record.status == "failed"]
    assert failed[0].error.startswith("RuntimeError: device-side assert\n")
    assert "prefill" in failed[0].error
    assert len(freed) == 2
    monkeypatch.setattr(StandIn, "prefill", original)
    _, again = run(tmp_path)
    assert not {row.key for row in again.rows} & all_keys([steps[0]])
    _, retried = run(tmp_path, retry=True)
    assert {key for key in complete_rows(retried) if key.visit == 1} == all_keys(steps)


def test_a_device_that_is_lost_ends_the_call(tmp_path, monkeypatch, capsys):
    steps, original = steps_of(), StandIn.prefill

    def prefill(self, step, store):
        if step == steps[1]:
            raise RuntimeError("an illegal memory access")
        original(self, step, store)

    def free(self):
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(StandIn, "prefill", prefill)
    monkeypatch.setattr(StandIn, "free", free)
    _, file = run(tmp_path)
    assert [record.status for record in file.steps] == ["done", "failed"]
    assert "the device is lost" in capsys.readouterr().err
    monkeypatch.undo()
    _, whole = run(tmp_path)
    expected = all_keys(step for step in steps if step != steps[1])
    assert {key for key in complete_rows(whole) if key.visit == 1} == expected


def test_one_schedule_that_runs_out_of_memory_is_a_row(tmp_path, monkeypatch):
    original, victim = module._Run._sample, steps_of()[4].schedules[0]

    def sample(self):
        if (self.key.run.workload.frames, self.key.run.schedule) == (128, victim):
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")
        return original(self)

    monkeypatch.setattr(module._Run, "_sample", sample)
    _, file = run(tmp_path)
    errors = [row.error for row in file.rows if row.error]
    assert errors == ["OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB"] * 2
    assert all(record.status == "done" for record in file.steps)
    keys = {row.key for row in file.rows}
    assert all_keys(steps_of()) <= keys
    assert run(tmp_path)[1].rows == file.rows  # not tried again
    monkeypatch.setattr(module._Run, "_sample", original)
    _, retried = run(tmp_path, retry=True)
    assert not any(row.error for row in retried.rows)
    assert all_keys(steps_of()) <= complete_rows(retried).keys()


def test_the_minutes_may_end_in_the_middle_of_a_step(tmp_path, monkeypatch):
    original = module._Run._sample

    def slow(self):  # a round takes more than 100 s
        self._device.tick(10)
        return original(self)

    monkeypatch.setattr(module._Run, "_sample", slow)
    device, file = run(tmp_path, minutes=3)
    assert [record.status for record in file.steps] == ["stopped"]
    assert [row.repeats for row in file.rows] == [1] * 10
    assert 180 <= device.now() < 290  # to the end of the round
    monkeypatch.undo()
    _, whole = run(tmp_path)
    assert {key for key in complete_rows(whole) if key.visit == 1} == all_keys(steps_of())


def test_a_call_with_too_few_minutes_measures_nothing_and_says_so(tmp_path, capsys):
    _, file = run(tmp_path, minutes=0.1)
    assert file.rows == file.steps == []
    told = capsys.readouterr().err
    assert "no step fits: the shortest needs about" in told
    assert "16 steps are left" in told


def test_each_call_ends_with_a_repeat_of_the_first_step(tmp_path):
    for visit, minutes in ((2, 3), (3, 3)):
        _, file = run(tmp_path, minutes=minutes, seed=visit)
        last = file.steps[-1].step
        assert (last.visit, last.frames, last.execution) == (visit, 32, "eager")
        assert file.steps[-1].status == "done"
    visits = [row.key.visit for row in file.rows]
    assert visits.count(2) == visits.count(3) == 2


def test_the_whole_file_is_written_anew_after_each_round(tmp_path, monkeypatch):
    sizes = []
    original = CampaignFile.save

    def save(self):
        original(self)
        tree = json.loads((tmp_path / CAMPAIGN).read_text())
        sizes.append(sum(row["repeats"] for row in tree["rows"]))

    monkeypatch.setattr(CampaignFile, "save", save)
    first = steps_of(1)
    run(tmp_path, steps=first)
    assert isinstance(first[0], PrefillStep)
    growth = [later - sooner for sooner, later in pairwise(sizes)]
    assert growth.count(10) == first[0].rounds
    assert set(growth) <= {0, 2, 10}
