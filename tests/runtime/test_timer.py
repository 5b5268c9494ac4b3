"""Recorders: whose time is whose, and phases that leave the model as it was."""

import time

import pytest
import torch

from aim_cost import Schedule
from aim_cost.ops.op import PHASES
from aim_runtime import patched
from aim_runtime.errors import MeasurementError
from aim_runtime.measurement.clock import ClockRecorder, CudaRecorder, phase_hooks, recorder_for
from tests.runtime.models import named_inputs, tiny_llava_15, tiny_next_video
from tests.runtime.support import video_inputs

VISION_AND_LLM = {name for name in PHASES if name.startswith(("vision", "llm"))}


def test_nested_spans_own_their_time(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", iter((0, 1, 2, 5, 10, 20, 36, 100)).__next__)
    recorder = ClockRecorder()
    with recorder.span("all"):  # 0 to 100
        with recorder.span("outer"), recorder.span("inner"):  # 1 to 10, 2 to 5
            pass
        with recorder.span("outer"):  # 20 to 36
            pass
    assert recorder.seconds() == {"all": 75, "outer": 9 - 3 + 16, "inner": 3}
    assert sum(recorder.seconds().values()) == 100


def test_a_span_that_fails_is_closed():
    recorder = ClockRecorder()
    with recorder.span("all"):
        with pytest.raises(ValueError, match="boom"), recorder.span("part"):
            raise ValueError("boom")
        with recorder.span("next"):
            pass
    seconds = recorder.seconds()
    assert seconds.keys() == {"all", "part", "next"}
    assert all(value >= 0 for value in seconds.values())


def test_cuda_events_are_waited_for_once_and_give_seconds(monkeypatch):
    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def elapsed_time(self, later: "Event") -> float:
            assert stream.waits == 1
            return later.milliseconds - self.milliseconds

    class Stream:
        waits, clock = 0, iter((0.0, 250.0, 1250.0, 4000.0))

        def record_event(self, event: Event) -> Event:
            event.milliseconds = next(self.clock)
            return event

        def synchronize(self) -> None:
            self.waits += 1

    stream = Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    recorder = recorder_for(torch.device("cuda"))
    assert isinstance(recorder, CudaRecorder)
    with recorder.span("all"), recorder.span("part"):
        pass
    assert stream.waits == 0
    assert recorder.seconds() == {"all": 3.0, "part": 1.0}


def test_only_devices_that_can_be_timed():
    assert type(recorder_for(torch.device("cpu"))) is ClockRecorder
    with pytest.raises(MeasurementError, match="cuda or cpu, got meta"):
        recorder_for(torch.device("meta"))


def test_every_phase_is_recorded_and_together_they_are_all(llava):
    recorder = ClockRecorder()
    start = time.perf_counter()
    with phase_hooks(llava, recorder), recorder.span("other"):
        llava(**video_inputs())
    elapsed = time.perf_counter() - start
    seconds = recorder.seconds()
    assert seconds.keys() >= VISION_AND_LLM | {"other"}
    assert all(value > 0 for value in seconds.values())
    assert sum(seconds.values()) <= elapsed


def test_each_family_has_its_own_phases():
    image, video = tiny_llava_15(layers=2), tiny_next_video(layers=2)
    for model, name, pooling in ((image, "an image", False), (video, "a video", True)):
        recorder = ClockRecorder()
        with phase_hooks(model, recorder):
            model(**named_inputs(model, "next-video" if pooling else "llava-1.5", name))
        phases = VISION_AND_LLM - ({"vision.pooling"} if not pooling else set())
        assert recorder.seconds().keys() == phases | {"llm.rotary"}


def test_a_model_without_these_phases_is_refused(qwen2):
    with (
        pytest.raises(MeasurementError, match=r"LlavaForConditionalGeneration.*Qwen2ForCausalLM"),
        phase_hooks(qwen2, ClockRecorder()),
    ):
        pass


def test_merging_and_scoring_are_taken_out_of_what_surrounds_them(llava):
    schedule = Schedule.parse("merge passes:5, prune linear:1:4")
    recorder = ClockRecorder()
    with (
        patched(llava, schedule, recorder=recorder),
        phase_hooks(llava, recorder),
        recorder.span("other"),
    ):
        llava(**video_inputs())
    spans = [(name, parent) for name, parent, *_ in recorder._spans]
    names = [name for name, _ in spans]
    inside = {name: {names[p] for n, p in spans if n == name} for name in ("merge", "importance")}
    assert inside == {"merge": {"other"}, "importance": {"llm.layers"}}
    assert names.count("merge") == 1
    assert set(PHASES) <= set(names)


def test_the_model_is_left_as_it_was(llava):
    modules = dict(llava.named_modules())
    expected = llava(**video_inputs()).logits  # the class notes something at its first call
    before = {name: set(vars(module)) for name, module in modules.items()}
    with phase_hooks(llava, ClockRecorder()):
        assert torch.equal(llava(**video_inputs()).logits, expected)
    with pytest.raises(ValueError, match="boom"), phase_hooks(llava, ClockRecorder()):
        raise ValueError("boom")
    assert {name: set(vars(module)) for name, module in modules.items()} == before


def test_a_method_that_someone_else_replaced_is_given_back(llava):
    mine = llava.lm_head.forward
    llava.lm_head.forward = mine
    with phase_hooks(llava, ClockRecorder()):
        assert vars(llava.lm_head)["forward"] is not mine
    assert vars(llava.lm_head)["forward"] is mine
