"""Timed decoding: seconds per output token after a prefill under each schedule."""

import random
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from rich.progress import track

from aim_cost.checks import whole
from aim_cost.models.workload import Workload
from aim_cost.render import console
from aim_cost.schedules.schedule import Schedule
from aim_runtime.errors import MeasurementError
from aim_runtime.measurement.clock import recorder_for
from aim_runtime.measurement.measure import device_name
from aim_runtime.measurement.row_key import visual_fields
from aim_runtime.measurement.timed_run import quartiles
from aim_runtime.models.load import Loaded
from aim_runtime.patching.patch import patched
from aim_runtime.prompts.inputs import Inputs, sized_inputs
from aim_runtime.seams import cache_of, with_cache

Row = dict[str, Any]


def measure_decode(
    loaded: Loaded,
    workload: Workload,
    schedules: Sequence[Schedule],
    *,
    new_tokens: int = 32,
    repeats: int = 3,
    seed: int = 0,
) -> list[Row]:
    """Time greedy decoding of ``new_tokens`` after each schedule's prefill, interleaved.

    The KV cache is that of the prefill: full, or ragged where tokens were dropped. One untimed
    round, then ``repeats`` rounds in shuffled order. Clock as in ``measure``.
    Returns: a row per schedule: ``tpot_s``, the median over rounds of the mean seconds per output
    token, its quartiles ``tpot_low_s`` and ``tpot_high_s``, and ``cache_tokens`` of each layer
    after the prefill.
    """
    whole(new_tokens, "new_tokens", MeasurementError)
    whole(repeats, "repeats", MeasurementError)
    inputs = sized_inputs(loaded, workload, seed=seed)
    samples: list[list[float]] = [[] for _ in schedules]
    cache_tokens: list[tuple[int, ...]] = [() for _ in schedules]
    turns, order = list(range(len(schedules))), random.Random(seed)
    for round_ in track(
        range(1 + repeats), "decoding", console=console(error=True), transient=True
    ):
        order.shuffle(turns)
        for turn in turns:
            seconds, cache_tokens[turn] = _decode(loaded, schedules[turn], inputs, new_tokens)
            if round_:
                samples[turn].append(seconds)
    return [
        _row(loaded, workload, schedule, new_tokens, times, cached)
        for schedule, times, cached in zip(schedules, samples, cache_tokens, strict=True)
    ]


@torch.inference_mode()
def _decode(
    loaded: Loaded, schedule: Schedule, inputs: Inputs, new_tokens: int
) -> tuple[float, tuple[int, ...]]:
    """Seconds per token, and what each layer of the cache held before."""
    model, recorder = loaded.model, recorder_for(loaded.device)
    with patched(model, schedule) as trace:
        output = model(**inputs, use_cache=True, logits_to_keep=1)
        cache, cached = cache_of(output), trace.cache_tokens
        token = output.logits[:, -1:].argmax(dim=-1)
        if loaded.device.type == "cuda":
            # else the host would start the first tokens while the device still runs the prefill
            torch.cuda.synchronize(loaded.device)
        with recorder.span("decode"):
            for _ in range(new_tokens):
                # positions go on from the cache's first layer, which nothing leaves
                step = model(input_ids=token, use_cache=True, **with_cache(cache))
                token = step.logits[:, -1:].argmax(dim=-1)
    return recorder.seconds()["decode"] / new_tokens, cached


def _row(
    loaded: Loaded,
    workload: Workload,
    schedule: Schedule,
    new_tokens: int,
    times: Sequence[float],
    cache_tokens: tuple[int, ...],
) -> Row:
    low, high = quartiles(times)
    return {
        "kind": "decode",
        "model": loaded.spec.name,
        "layers": loaded.spec.text.num_hidden_layers,
        "vision_layers": loaded.spec.vision.num_hidden_layers,
        "hardware": device_name(loaded.device),
        "dtype": loaded.dtype,
        **visual_fields(workload),
        "text_tokens": workload.text_tokens,
        "batch": workload.batch,
        "execution": "decode",
        "schedule": schedule.label(),
        "new_tokens": new_tokens,
        "tpot_s": median(times),
        "tpot_low_s": low,
        "tpot_high_s": high,
        "cache_tokens": list(cache_tokens),
        "repeats": len(times),
        "error": None,
    }
