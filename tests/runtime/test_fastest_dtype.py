import pytest
import torch

from aim_runtime.kernels import fastest_dtype as module
from aim_runtime.kernels.fastest_dtype import fastest_dtype

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _forget():
    fastest_dtype.cache_clear()
    yield
    fastest_dtype.cache_clear()


@pytest.mark.parametrize(
    ("seconds", "expected", "said"),
    [
        ({"float32": 0.1, "bfloat16": 0.4}, "float32", "4.0x faster than bfloat16"),
        ({"float32": 0.3, "bfloat16": 0.1}, "bfloat16", "3.0x faster than float32"),
    ],
)
def test_a_cpu_takes_the_one_that_it_multiplies_faster(monkeypatch, seconds, expected, said):
    monkeypatch.setattr(module, "_interleaved", lambda works: seconds)
    found = fastest_dtype(CPU)
    assert found.dtype == expected
    assert found.reason == f"{expected}: this CPU multiplies it {said}"


def test_it_is_measured_once_a_process(monkeypatch):
    calls = []
    real = module._interleaved
    monkeypatch.setattr(module, "_interleaved", lambda works: calls.append(works) or real(works))
    assert fastest_dtype(CPU) == fastest_dtype(CPU)
    assert len(calls) == 1
    assert fastest_dtype(CPU).dtype in calls[0]


def test_a_gpu_is_not_measured(monkeypatch):
    monkeypatch.setattr(module, "_interleaved", lambda works: pytest.fail("measured"))
    assert fastest_dtype(torch.device("cuda")) == module.FastestDtype("bfloat16", "")


def test_rounds_are_interleaved_and_the_first_is_not_counted(monkeypatch):
    order, clock = [], iter([9.0, 9.0, 1.0, 4.0, 2.0, 5.0, 3.0, 6.0])

    class Recorder:
        def span(self, name):
            import contextlib

            return contextlib.nullcontext()

        def seconds(self):
            return {"work": next(clock)}

    monkeypatch.setattr(module, "recorder_for", lambda device: Recorder())
    works = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    assert module._interleaved(works) == {"a": 2.0, "b": 5.0}
    assert order == ["a", "b"] * 4
