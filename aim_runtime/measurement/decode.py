"""Timed decoding: seconds per output token after a prefill under each schedule."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from rich.progress import track

from aim_cost.checks import whole
from aim_cost.models.workload import Workload
from aim_cost.render import Row, console
from aim_cost.schedules.schedule import Schedule
from aim_runtime.errors import MeasurementError
from aim_runtime.measurement.attention_backend import AttentionBackend, attention_backend
from aim_runtime.measurement.clock import recorder_for
from aim_runtime.measurement.origin import Origin
from aim_runtime.measurement.place import row_key
from aim_runtime.measurement.row_key import RowKey
from aim_runtime.measurement.run_kind import RunKind
from aim_runtime.measurement.timed_run import DECODE, quartiles
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.load import Loaded
from aim_runtime.patching.patch import patched
from aim_runtime.prompts.inputs import sized_inputs
from aim_runtime.recorder import Recorder
from aim_runtime.seams import cache_of, with_cache


@dataclass(frozen=True)
class Decoding:
    """Decoding after the prefill of one schedule.

    Args:
        key: what ran, where and how.
        new_tokens: that were decoded in each round.
        tpot_s, tpot_low_s, tpot_high_s: the mean seconds of an output token: the median over the
            rounds, and its quartiles.
        cache_tokens: of each layer after the prefill.
        error: why it failed, in a line.
        origin: the step of a campaign that it belongs to, if any.
    """

    key: RowKey
    new_tokens: int
    tpot_s: float | None
    tpot_low_s: float | None
    tpot_high_s: float | None
    cache_tokens: tuple[int, ...]
    repeats: int
    error: str | None = None
    origin: Origin | None = None

    @classmethod
    def timed(
        cls, key: RowKey, new_tokens: int, times_s: Sequence[float], cache_tokens: tuple[int, ...]
    ) -> "Decoding":
        """Args: times_s, of an output token in each round."""
        low, high = quartiles(times_s)
        return cls(key, new_tokens, median(times_s), low, high, cache_tokens, len(times_s))

    def to_row(self) -> Row:
        """One flat row under the keys of measured prefills."""
        return {
            "kind": "decode",
            **self.key.to_row(),
            "new_tokens": self.new_tokens,
            "tpot_s": self.tpot_s,
            "tpot_low_s": self.tpot_low_s,
            "tpot_high_s": self.tpot_high_s,
            "cache_tokens": list(self.cache_tokens),
            "repeats": self.repeats,
            "error": self.error,
            **(self.origin.to_row() if self.origin else {}),
        }

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Decoding":
        """The inverse of ``to_row``. Raises: KeyError for another row."""
        return cls(
            key=RowKey.of(row),
            new_tokens=row["new_tokens"],
            tpot_s=row["tpot_s"],
            tpot_low_s=row["tpot_low_s"],
            tpot_high_s=row["tpot_high_s"],
            cache_tokens=tuple(row.get("cache_tokens", ())),
            repeats=row["repeats"],
            error=row["error"],
            origin=Origin.of(row),
        )


def measure_decode(
    loaded: Loaded,
    workload: Workload,
    schedules: Sequence[Schedule],
    *,
    new_tokens: int = 32,
    repeats: int = 3,
    seed: int = 0,
    attention: AttentionBackend | None = None,
) -> list[Decoding]:
    """Time greedy decoding of ``new_tokens`` after each schedule's prefill, interleaved.

    The KV cache is that of the prefill: full, or ragged where tokens were dropped. One untimed
    round, then ``repeats`` rounds in shuffled order. Clock as in ``measure``.
    Args: attention, the backend of all attentions; by default the one that torch chooses.
    Returns: one for each schedule. Raises: MeasurementError; SpecError.
    """
    whole(new_tokens, "new_tokens", MeasurementError)
    whole(repeats, "repeats", MeasurementError)
    inputs = sized_inputs(loaded, workload, seed=seed)
    samples: list[list[float]] = [[] for _ in schedules]
    cache_tokens: list[tuple[int, ...]] = [() for _ in schedules]
    turns, order = list(range(len(schedules))), random.Random(seed)
    rounds = track(range(1 + repeats), "decoding", console=console(error=True), transient=True)
    with attention_backend(attention):
        for round_ in rounds:
            order.shuffle(turns)
            for turn in turns:
                seconds, cache_tokens[turn] = _decode(loaded, schedules[turn], inputs, new_tokens)
                if round_:
                    samples[turn].append(seconds)
    keys = [
        row_key(loaded, workload, schedule, RunKind.DECODE, attention=attention)
        for schedule in schedules
    ]
    return [
        Decoding.timed(key, new_tokens, times_s, cached)
        for key, times_s, cached in zip(keys, samples, cache_tokens, strict=True)
    ]


@torch.inference_mode()
def _decode(
    loaded: Loaded, schedule: Schedule, inputs: Inputs, new_tokens: int
) -> tuple[float, tuple[int, ...]]:
    """Seconds per token, and what each layer of the cache held before."""
    recorder = recorder_for(loaded.device)
    with patched(loaded.model, schedule) as trace:
        output = loaded.model(**inputs, use_cache=True, logits_to_keep=1)
        cached = trace.cache_tokens
        decode_greedily(loaded, output, new_tokens, recorder)
    return recorder.seconds()[DECODE] / new_tokens, cached


def decode_greedily(loaded: Loaded, prefill: Any, new_tokens: int, recorder: Recorder) -> None:
    """Decode ``new_tokens`` in the span DECODE, after the output ``prefill`` of a patched model."""
    cache, token = cache_of(prefill), prefill.logits[:, -1:].argmax(dim=-1)
    if loaded.device.type == "cuda":
        # else the host would start the first tokens while the device still runs the prefill
        torch.cuda.synchronize(loaded.device)
    with recorder.span(DECODE):
        for _ in range(new_tokens):
            # positions go on from the cache's first layer, which nothing leaves
            step = loaded.model(input_ids=token, use_cache=True, **with_cache(cache))
            token = step.logits[:, -1:].argmax(dim=-1)
