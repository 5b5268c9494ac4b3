"""The steps of a campaign in their order, and which of their schedules a fit may see."""

from dataclasses import replace

from aim_cost.models.model import load_model_spec
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import Schedule
from aim_runtime.campaigns.step import DecodeStep, KernelStep, PrefillStep, Step
from aim_runtime.measurement.run_kind import RunKind

MODELS = ("llava-onevision-qwen2-7b", "llava-onevision-qwen2-0.5b")

_TEXT = 100
_KERNEL_FRAMES = 96  # so that tables reach the 20 000 tokens of a reduced or half as long video
_KERNEL_SECONDS = 20.0


def default_steps() -> list[Step]:
    """LLaVA-OneVision 7B and 0.5B, 8 to 192 frames: what matters most comes first."""
    large, small = MODELS
    return [
        _eager(large, 32, rounds=8),
        _graph(large, 32),
        KernelStep(large, _KERNEL_FRAMES, _KERNEL_SECONDS),
        _eager(large, 8, rounds=8),
        _eager(large, 128, rounds=6),
        _graph(large, 8),
        _decode(large),
        _masked(large),
        _eager(small, 32, rounds=8),
        _graph(small, 32),
        _graph(small, 8),
        KernelStep(small, _KERNEL_FRAMES, _KERNEL_SECONDS),
        _decode(small),
        _masked(small),
        _eager(small, 128, rounds=6),
        _eager(small, 8, rounds=8),
        _eager(large, 64, rounds=6),
        _few(_graph(large, 128), rounds=5),
        _eager(large, 32, rounds=6, text_tokens=500),
        replace(_eager(large, 192, rounds=5), schedules=_four(large)),
        replace(_eager(small, 192, rounds=5), schedules=_four(small)),
        _eager(large, 16, rounds=6),
        _eager(small, 64, rounds=6),
        _few(_graph(small, 128), rounds=5),
        _eager(small, 32, rounds=6, text_tokens=500),
        _eager(small, 16, rounds=6),
        _graph(large, 64),
        _eager(large, 32, rounds=6, text_tokens=50),
        replace(_eager(large, 192, rounds=5), schedules=_rest(large)),
        replace(_eager(small, 192, rounds=5), schedules=_rest(small)),
    ]


def repeat_of(step: PrefillStep, visit: int) -> PrefillStep:
    """The first and the most reduced schedule of a step once more: has the device drifted?"""
    both = aim_schedule(step.spec.text.num_hidden_layers)
    chosen = tuple(s for s in step.schedules if s in (Schedule(), both)) or step.schedules[:1]
    return replace(step, schedules=chosen, rounds=min(step.rounds, 5), visit=visit)


def fit_schedules(layers: int) -> tuple[Schedule, ...]:
    """Schedules whose rows a fit may see."""
    return (
        Schedule.parse("merge 0.5"),
        Schedule.parse("merge frame:24"),
        Schedule(prune=_at_depth(layers, 14, 22)),
        Schedule(Merge(retention=0.25), _at_depth(layers, 7, 22)),
    )


def held_out_schedules(layers: int) -> tuple[Schedule, ...]:
    """Schedules whose rows no fit ever sees: other counts, other depths, other methods."""
    quarter = layers // 4  # PyramidDrop's: halved at each quarter of the depth
    pyramid = ["1"] * (quarter - 1) + ["0.5"] * quarter + ["0.25"] * quarter + ["0.125"]
    return (
        Schedule.parse("merge 0.25"),
        aim_schedule(layers),
        Schedule(Merge(retention=0.25), _at_depth(layers, 21, 29)),
        # FastV's: half leave after the second layer
        Schedule.parse("prune ratios:1,0.5 score=text-attention"),
        Schedule.parse(f"prune ratios:{','.join(pyramid)} score=text-attention"),
    )


def aim_schedule(layers: int) -> Schedule:
    """The schedule of the AIM paper: a quarter of the tokens, pruned over the second half."""
    return Schedule(Merge(retention=0.25), _at_depth(layers, 14, 22))


def _at_depth(layers: int, first: int, last: int) -> Prune:
    """AIM's (l1, l2), given for 28 layers, at the same share of another depth."""
    return Prune.at_depth(layers, first / 28, last / 28)


def _layers(model: str) -> int:
    return load_model_spec(model).text.num_hidden_layers


def _every(model: str) -> tuple[Schedule, ...]:
    layers = _layers(model)
    return (Schedule(), *fit_schedules(layers), *held_out_schedules(layers))


def _four(model: str) -> tuple[Schedule, ...]:
    """None, merging, pruning, both."""
    both = aim_schedule(_layers(model))
    return (Schedule(), Schedule(both.merge), Schedule(prune=both.prune), both)


def _rest(model: str) -> tuple[Schedule, ...]:
    return tuple(schedule for schedule in _every(model) if schedule not in _four(model))


def _eager(model: str, frames: int, *, rounds: int, text_tokens: int = _TEXT) -> PrefillStep:
    return PrefillStep(model, frames, text_tokens, _every(model), rounds)


def _graph(model: str, frames: int) -> PrefillStep:
    return PrefillStep(model, frames, _TEXT, _four(model), 8, RunKind.CUDA_GRAPH)


def _few(step: PrefillStep, *, rounds: int) -> PrefillStep:
    both = Schedule(), aim_schedule(_layers(step.model))
    return replace(step, schedules=both, rounds=rounds)


def _masked(model: str) -> PrefillStep:
    return PrefillStep(model, 32, _TEXT, (aim_schedule(_layers(model)),), 5, RunKind.MASKED)


def _decode(model: str) -> DecodeStep:
    return DecodeStep(model, 32, _TEXT, (Schedule(), aim_schedule(_layers(model))), 3)
