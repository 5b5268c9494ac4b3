"""Patching and unpatching, however it ends, leaves nothing behind, on the model or elsewhere."""

import contextlib
import gc
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import Schedule
from aim_runtime import patch, patched, unpatch
from aim_runtime.patching.encoding import Encoding
from aim_runtime.patching.position_keeping import PositionKeeping
from aim_runtime.patching.prefill import Prefill
from aim_runtime.patching.prompt_shortening import PromptShortening
from aim_runtime.patching.token_dropping import TokenDropping
from aim_runtime.patching.undo import Changes
from aim_runtime.prompts.encoded import Encoded
from aim_runtime.prompts.prompt import Prompt
from aim_runtime.seams import cache_of, with_cache
from aim_runtime.trace import RunTrace
from tests.runtime.support import tiny_llava, tiny_qwen2, video_inputs

PARTS = (PromptShortening, PositionKeeping, TokenDropping)
OURS = (*PARTS, Prefill, Prompt, Encoding, Encoded, RunTrace)
PRUNES = (
    Prune(linear=(0, 1)),
    Prune(ratios=(0.5,), drop_point="after_attention"),
    Prune(tokens=(6, 2), importance="random"),
)
MERGES = (Merge(passes=(5, 3)), Merge(tokens_per_frame=5, positions="kept"))
GREEDY = {"max_new_tokens": 3, "do_sample": False}


@dataclass(frozen=True)
class Case:
    """A model, how it is called, and schedules that take every way through a patch."""

    model: PreTrainedModel
    inputs: dict[str, Tensor]
    schedules: tuple[Schedule, ...]
    visual_mask: Tensor | None = None

    def patched(self, turn: int = 1) -> contextlib.AbstractContextManager[RunTrace]:
        schedule = self.schedules[turn % len(self.schedules)]
        return patched(self.model, schedule, visual_mask=self.visual_mask)


def llava() -> Case:
    schedules = tuple(Schedule(merge, prune) for prune in PRUNES for merge in (*MERGES, None))
    return Case(tiny_llava(layers=2), video_inputs(frames=2), schedules)


def qwen2() -> Case:
    ids = torch.randint(0, 200, (1, 20), generator=torch.Generator().manual_seed(3))
    mask = torch.arange(20)[None].remainder(17) >= 3
    schedules = tuple(Schedule(prune=prune) for prune in PRUNES)
    return Case(tiny_qwen2(layers=2), {"input_ids": ids}, schedules, mask)


both = pytest.mark.parametrize("make", [llava, qwen2])


def state(model: nn.Module) -> list[object]:
    """Attributes, hooks and configs of every module, and what transformers holds for all models."""
    registries = AttentionInterface(), AttentionMaskInterface()
    return [
        [sorted(registry.valid_keys()) for registry in registries],
        *(
            (name, sorted(vars(module)), hooks(module), settings(module))
            for name, module in model.named_modules()
        ),
    ]


def hooks(module: nn.Module) -> dict[str, int]:
    return {
        name: len(held)
        for name, held in vars(module).items()
        if isinstance(held, dict) and "hooks" in name
    }


def settings(module: nn.Module) -> object:
    config = getattr(module, "config", None)
    return config and (config._attn_implementation, sorted(vars(config)), config.to_dict())


def alive() -> Counter[str]:
    """Tensors and objects of ours that anything still holds."""
    gc.collect()
    kinds = (*OURS, Tensor)
    return Counter(type(x).__name__ for x in gc.get_objects() if issubclass(type(x), kinds))


def outputs(case: Case) -> tuple[Tensor, Tensor]:
    return case.model(**case.inputs).logits, case.model.generate(**case.inputs, **GREEDY)


@both
def test_a_hundred_patches_leave_nothing(make):
    case = make()
    expected, before = outputs(case), state(case.model)
    counts = []
    for turn in range(100):
        with case.patched(turn) as trace:
            if not turn % 4:
                outputs(case)
        del trace
        if turn in (9, 99):
            counts.append(alive())
    assert counts[0] == counts[1]
    assert not counts[1].keys() & {kind.__name__ for kind in OURS}
    assert state(case.model) == before
    assert all(map(torch.equal, outputs(case), expected))


@both
def test_an_exception_inside_leaves_nothing(make):
    case = make()
    expected, before, held = outputs(case), state(case.model), alive()
    last = case.model.get_decoder().layers[-1]
    for turn in range(len(case.schedules)):
        with contextlib.suppress(ZeroDivisionError), case.patched(turn):
            outputs(case)
            handle = last.register_forward_hook(lambda *_: 1 / 0)
            try:
                case.model(**case.inputs)
            finally:
                handle.remove()
    assert alive() == held
    assert state(case.model) == before
    assert all(map(torch.equal, outputs(case), expected))


@both
def test_a_patch_that_fails_at_any_step_leaves_nothing(make, monkeypatch):
    case = make()
    expected, before, held = outputs(case), state(case.model), alive()
    steps = Steps(monkeypatch)
    with case.patched():
        total = steps.taken
    assert total > 2 * len(case.model.get_decoder().layers)
    for step in range(total):
        steps.fail_at(step)
        with contextlib.suppress(ZeroDivisionError), case.patched():
            pytest.fail("patched all the same")
        steps.fail_at(None)
        assert state(case.model) == before
    assert alive() == held
    assert all(map(torch.equal, outputs(case), expected))


class Steps:
    """Counts what a patch does to modules, and lets one of its steps fail when it is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken, self._failing = 0, None
        for owner, name in (
            (nn.Module, "register_forward_pre_hook"),
            (nn.Module, "register_forward_hook"),
            (Changes, "replace"),
            (PreTrainedModel, "set_attn_implementation"),
        ):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def fail_at(self, step: int | None) -> None:
        self.taken, self._failing = 0, step

    def _counted(self, function: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object, **kwargs: object) -> object:
            number, self.taken = self.taken, self.taken + 1
            if number == self._failing:
                raise ZeroDivisionError
            return function(*args, **kwargs)

        return counted


@both
def test_a_cache_and_a_trace_hold_neither_hooks_nor_model(make):
    case = make()
    with case.patched() as trace:
        cache = cache_of(case.model(**case.inputs))
    held = alive()
    assert not any(held[part.__name__] for part in PARTS)
    assert not held[Prefill.__name__]
    model = weakref.ref(case.model)
    del case
    gc.collect()
    assert model() is None
    assert trace.cache_tokens == tuple(layer.keys.shape[2] for layer in cache.layers)


def test_finished_conversations_are_forgotten_while_patched():
    case = llava()
    trace = patch(case.model, Schedule(MERGES[1], PRUNES[0]))
    counts = []
    for turn in range(12):
        first = case.model.generate(**case.inputs, **GREEDY, return_dict_in_generate=True)
        more = torch.cat([first.sequences, first.sequences[:, :2]], dim=1)
        case.model.generate(more, **with_cache(cache_of(first)), **GREEDY)
        del first, more
        if turn in (1, 11):
            counts.append(alive())
    assert counts[0] == counts[1]
    unpatch(case.model)
    assert trace.tokens.reduces
