"""Predicted FLOPs and traces of Qwen2-VL, 2.5-VL and 3-VL equal those of tiny models that run.

With data, since the sizes of grids are data. The counter takes fused attention on a CPU for
nothing, so the unfused kernel runs.
"""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from aim_cost import ModelSpec, Schedule, Workload, estimate, load_hardware
from aim_cost.schedules.merge import MERGE_KINDS, Merge
from aim_cost.schedules.prune import Prune
from aim_runtime import patched
from aim_runtime.measurement.flops import FlopRecorder
from tests.runtime.qwen import KINDS, PATCH, qwen_inputs, text_tokens, tiny_qwen
from tests.runtime.slow_scores import RANKINGS

H100 = load_hardware("h100-sxm")
RATIOS = (1, 0.5, 0.5, 0.25)
SCHEDULES = [
    Schedule(),
    *(Schedule(Merge(retention=0.4, by=by)) for by in MERGE_KINDS),
    *(Schedule(Merge(retention=0.4), Prune(ratios=RATIOS, **ranking)) for ranking in RANKINGS),
]


def counted(model, schedule, inputs):
    """FLOPs of each phase of a run, and its trace."""
    counter = FlopCounterMode(display=False)
    recorder = FlopRecorder(counter)
    core = model.model
    phases = {
        "vision": core.visual,
        "llm.layers": core.language_model,
        "rotary": core.language_model.rotary_emb,  # a matmul in 5.17, which nobody counts
        "llm.head": model.lm_head,
    }
    opened, hooks = [], []

    def enter(name):
        opened.append(recorder.span(name))
        opened[-1].__enter__()

    def leave(*_):
        opened.pop().__exit__(None, None, None)

    with (
        torch.inference_mode(),
        sdpa_kernel([SDPBackend.MATH]),
        patched(model, schedule, recorder=recorder) as trace,
        counter,
    ):
        for name, module in phases.items():
            hooks += [
                module.register_forward_pre_hook(lambda *_, name=name: enter(name)),
                module.register_forward_hook(leave),
            ]
        model(**inputs, logits_to_keep=1)
        for hook in hooks:
            hook.remove()
    return recorder.flops, trace.tokens


def check(kind, schedule, workload, row):
    model = tiny_qwen(kind)
    inputs = qwen_inputs(kind, *[row] * workload.batch)
    spec = ModelSpec.from_hf_config(model.config.to_dict())
    predicted = estimate(spec, workload, schedule, H100)
    flops, tokens = counted(model, schedule, inputs)
    assert tokens == predicted.trace
    for phase in ("vision", "merge", "importance", "llm.layers", "llm.head"):
        assert flops.get(phase, 0) == predicted.phase(phase).flops, phase
    assert sum(flops.values()) - flops["rotary"] == predicted.flops


@pytest.mark.parametrize("schedule", SCHEDULES, ids=Schedule.label)
@pytest.mark.parametrize("kind", KINDS)
def test_a_video_is_exact(kind, schedule):
    rows, columns = 6, 10  # windows cut off at the edges
    row, size = [3, (3, rows, columns), 4], (rows * PATCH, columns * PATCH)
    workload = Workload(text_tokens(kind, row), frames=6, batch=2, frame_size=size)
    check(kind, schedule, workload, row)


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_several_sizes_are_exact(kind):
    sizes = ((64, 80), (64, 64))
    schedule = Schedule(Merge(retention=0.4), Prune(ratios=RATIOS))
    parts = [(height // PATCH, width // PATCH) for height, width in sizes]
    check(kind, schedule, Workload(11, images=sizes), [2, parts[0], 1, parts[1], 4])
