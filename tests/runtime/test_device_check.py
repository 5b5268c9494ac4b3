import json

import pytest
import torch
from typer.testing import CliRunner

from aim_runtime.cli.main import app
from aim_runtime.validation import device_check as module
from aim_runtime.validation.device_check import device_checks

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def found():
    return {check.name: check for check in device_checks(CPU)}


def test_this_device_is_right(found):
    assert [c.name for c in found.values() if c.passed is False] == []
    right = [c.name for c in found.values() if c.passed]
    assert "patched without reduction against stock" in right
    assert "static prefill against eager" in right
    assert "attention by math against fp32" in right
    assert all(c.seconds >= 0 and c.got for c in found.values())
    assert "FLOP/s" in found["rate of a large GEMM"].got


def test_a_wrong_attention_is_seen(monkeypatch):
    bench = module._Bench(CPU, "bfloat16")
    stock = module.scaled_dot_product_attention

    def wrong(query, *others, **options):
        out = stock(query, *others, **options)
        return out if query.dtype == torch.float32 else out * 1.05

    monkeypatch.setattr(module, "scaled_dot_product_attention", wrong)
    assert bench.attention(module.AttentionBackend.math)[2] is False


def test_a_patch_that_changes_the_stock_model_is_seen(monkeypatch):
    bench = module._Bench(CPU, "bfloat16")
    right = bench._eager

    def wrong(schedule):
        logits, kept = right(schedule)
        return logits + 1e-3, kept

    monkeypatch.setattr(bench, "_eager", wrong)
    assert bench.no_reduction()[2] is False


def test_a_check_that_raises_has_failed_and_the_next_goes_on(monkeypatch):
    def fail(self):
        raise RuntimeError("device-side assert\ntriggered")

    monkeypatch.setattr(module._Bench, "gemm_rate", fail)
    monkeypatch.setattr(module._Bench, "_model", fail)
    checks = list(device_checks(CPU))
    assert checks[0].passed is False
    assert checks[0].got == "RuntimeError: device-side assert triggered"
    assert checks[1].passed is None  # the copy


def test_no_check_begins_after_the_time():
    assert len(list(device_checks(CPU, seconds=0.0))) <= 1


def test_the_command_writes_after_each_check_and_fails_where_one_is_wrong(monkeypatch, tmp_path):
    out = tmp_path / "check.json"
    states = []
    row = module.Check("a", "b", "c", True, 0.1)

    def checks(device, seconds):
        yield row
        states.append(json.loads(out.read_text()))
        yield module.Check("wrong", "right", "wrong", False, 0.1)

    monkeypatch.setattr(module, "device_checks", checks)
    result = CliRunner().invoke(app, ["selfcheck", "--device", "cpu", "--out", str(out)])
    assert result.exit_code == 1
    assert states[0]["passed"] is True
    assert states[0]["device"] == [row.to_row()]
    assert json.loads(out.read_text())["passed"] is False
    assert "WRONG" in result.output
    assert max(map(len, result.output.splitlines())) <= 80
