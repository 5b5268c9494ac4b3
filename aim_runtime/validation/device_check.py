"""device_checks(): checks that this device computes right, and measures its peak rates."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from aim_cost.devices.hardware import HardwareProfile
from aim_cost.models.model import preset_config
from aim_cost.models.workload import Workload
from aim_cost.render import Row
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import Schedule
from aim_cost.units import show
from aim_runtime.errors import error_line
from aim_runtime.kernels.probe import probe
from aim_runtime.measurement.attention_backend import (
    AttentionBackend,
    attention_backend,
    chosen_backend,
)
from aim_runtime.measurement.clock import recorder_for
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.load import Loaded, load
from aim_runtime.patching.cuda_graph import GraphedPrefill, StaticPrefill
from aim_runtime.patching.patch import patched
from aim_runtime.prompts.inputs import sized_inputs
from aim_runtime.reduction.importance import pagerank_importance
from aim_runtime.reduction.importance_kernel import importance_kernel

MODEL = "llava-onevision-qwen2-0.5b"
_SIZES = {"cuda": (24, 26, 8, 1669), "cpu": (4, 2, 1, 300)}  # layers, frames, tokens of a score
_SCORE_BEYOND = 0.01  # share of 16-bit scores that another order of sums may change
_ATTENTION_ERROR = 1e-2  # of a 16-bit attention against fp32, relative norm
_NEW_LENGTHS = (1001, 1103, 1213, 1301)


@dataclass(frozen=True)
class Check:
    """One question to a device.

    Args:
        name: what is compared or measured.
        expected: what a right device answers; empty where the answer is a fact without a right one.
        got: what it answered, or the error that it raised.
        passed: None for such facts.
        seconds: how long the check took.
    """

    name: str
    expected: str
    got: str
    passed: bool | None
    seconds: float

    def to_row(self) -> Row:
        """Plain data, for JSON and CSV."""
        return asdict(self)


Answer = tuple[str, str, bool | None]
"""Expected, got and passed of a Check."""


def device_checks(
    device: torch.device, dtype: str = "bfloat16", seconds: float = math.inf
) -> Iterator[Check]:
    """Run the checks one after another; each is given out as soon as it is known.

    Prefills are of the 0.5B with random weights, 8 frames on a GPU, a few layers on a CPU. A check
    that raises has failed, and the next goes on. None is begun after ``seconds``.
    """
    begun = time.monotonic()
    bench = _Bench(device, dtype)
    checks: list[tuple[str, Callable[[], Answer]]] = [
        ("rate of a large GEMM", bench.gemm_rate),
        ("rate of a copy", bench.copy_rate),
        ("attention that torch takes by itself", bench.backend),
        *(
            (
                f"attention by {backend} against fp32",
                lambda backend=backend: bench.attention(backend),
            )
            for backend in AttentionBackend
        ),
        ("attention at a new length, and again", bench.plan_cost),
        ("fused score against the one in torch", bench.score),
        ("patched without reduction against stock", bench.no_reduction),
        ("the same patched prefill twice", bench.repeats),
        ("static prefill against eager", bench.static),
        ("CUDA graph against eager", bench.graph),
        ("memory left by a patched prefill", bench.memory),
    ]
    for name, ask in checks:
        if time.monotonic() - begun > seconds:
            return
        start = time.monotonic()
        try:
            expected, got, passed = ask()
        except Exception as error:  # whatever torch, its libraries or the driver raise
            expected, got, passed = "an answer", error_line(error), False
        yield Check(name, expected, got, passed, time.monotonic() - start)


class _Bench:
    """A device, its ceilings and a loaded model for all checks, each made when needed."""

    def __init__(self, device: torch.device, dtype: str) -> None:
        self._device, self._name, self._dtype = device, dtype, getattr(torch, dtype)
        self._sizes = _SIZES["cuda" if device.type == "cuda" else "cpu"]
        self._loaded: Loaded | None = None
        self._inputs: Inputs = {}
        self._generator = torch.Generator().manual_seed(0)

    @cached_property
    def _ceilings(self) -> HardwareProfile:
        return probe(self._device, self._name)

    def gemm_rate(self) -> Answer:
        return "", show(self._ceilings.peak_flops_per_s(self._name), "FLOP/s"), None

    def copy_rate(self) -> Answer:
        return "", show(float(self._ceilings.memory_bandwidth_bytes_per_s), "B/s"), None

    def backend(self) -> Answer:
        text = self._model().spec.text
        return "", str(chosen_backend(text, self._device, self._name)), None

    def attention(self, backend: AttentionBackend) -> Answer:
        query, key, value = (self._heads(777, heads) for heads in (14, 2, 2))
        try:
            with attention_backend(backend):
                got = scaled_dot_product_attention(
                    query, key, value, is_causal=True, enable_gqa=True
                )
        except RuntimeError:  # no such kernel for this device, dtype or sizes
            return "", "not available", None
        with attention_backend(AttentionBackend.math):
            exact = scaled_dot_product_attention(
                query.float(), key.float(), value.float(), is_causal=True, enable_gqa=True
            )
        error = float((got.float() - exact).norm() / exact.norm())
        expected = f"relative error at most {_ATTENTION_ERROR:g}"
        return expected, f"{error:.1e}", error <= _ATTENTION_ERROR

    def plan_cost(self) -> Answer:
        """A backend that builds a plan for each shape is slow at the first of it."""
        first, second = (
            sum(self._attention_s(length) for length in _NEW_LENGTHS) / len(_NEW_LENGTHS)
            for _ in range(2)
        )
        return "", f"{1e3 * first:.1f} ms, {1e3 * second:.1f} ms", None

    def score(self) -> Answer:
        kernel = importance_kernel(self._device)
        if kernel == "torch":
            return "", "not available", None
        from aim_runtime.reduction.importance_triton import fused_importance

        query, key = (self._heads(self._sizes[3], heads) for heads in (14, 2))
        fused = fused_importance(query, key, scaling=64**-0.5)
        exact = pagerank_importance(query, key, scaling=64**-0.5)
        beyond = float(((fused - exact).abs() > 1e-3 * exact).float().mean())
        expected = f"at most {100 * _SCORE_BEYOND:g} % of scores off by more than 0.1 %"
        return expected, f"{100 * beyond:.2f} %", beyond <= _SCORE_BEYOND

    def no_reduction(self) -> Answer:
        model, inputs = self._model().model, self._inputs
        with torch.inference_mode():
            stock = model(**inputs, use_cache=True, logits_to_keep=1).logits
        same = torch.equal(stock, self._eager(Schedule())[0]) and bool(stock.isfinite().all())
        return "equal bit for bit, and finite", "equal" if same else "different", same

    def repeats(self) -> Answer:
        """Merging adds up with atomics on a GPU, so an equal result is a fact, not a duty."""
        (one, kept), (two, again) = (self._eager(self._schedule()) for _ in range(2))
        if torch.equal(one, two):
            return "", "equal bit for bit", None
        same = all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))
        difference, which = float((one - two).abs().max()), "equal" if same else "other"
        return "", f"logits off by {difference:.1e}, {which} tokens", None

    def static(self) -> Answer:
        prefill = StaticPrefill(self._model(), self._schedule(), self._inputs)
        with torch.inference_mode():
            return self._against_eager(prefill.run().logits)

    def graph(self) -> Answer:
        if self._device.type != "cuda":
            return "", "not available", None
        graphed = GraphedPrefill(self._model(), self._schedule(), self._inputs)
        return self._against_eager(graphed.replay().logits)

    def memory(self) -> Answer:
        if self._device.type != "cuda":
            return "", "not available", None
        self._eager(self._schedule())
        torch.cuda.synchronize(self._device)
        before = torch.cuda.memory_allocated(self._device)
        self._eager(self._schedule())
        torch.cuda.synchronize(self._device)
        left = torch.cuda.memory_allocated(self._device) - before
        return "0 B more than before", f"{left} B", left == 0

    def _against_eager(self, logits: Tensor) -> Answer:
        eager = self._eager(self._schedule())[0]
        difference = float((logits.float() - eager.float()).abs().max())
        limit = 0.05 * float(eager.float().abs().max())
        expected = f"logits within {limit:.1e}, a twentieth of the largest"
        return expected, f"{difference:.1e}", difference <= limit

    def _eager(self, schedule: Schedule) -> tuple[Tensor, list[Tensor]]:
        model = self._model().model
        with torch.inference_mode(), patched(model, schedule) as trace:
            logits = model(**self._inputs, use_cache=True, logits_to_keep=1).logits
            return logits, [kept.clone() for kept in trace.kept]

    def _schedule(self) -> Schedule:
        prune = Prune.at_depth(self._sizes[0], 14 / 28, 22 / 28)
        return Schedule(Merge(retention=0.25), prune)

    def _model(self) -> Loaded:
        if self._loaded is None:
            layers, vision_layers, frames, _ = self._sizes
            self._loaded = load(
                preset_config(MODEL),
                self._device,
                self._name,
                random_weights=True,
                layers=layers,
                vision_layers=vision_layers,
            )
            self._inputs = sized_inputs(self._loaded, Workload(text_tokens=50, frames=frames))
        return self._loaded

    def _heads(self, tokens: int, heads: int) -> Tensor:
        """Random [1, heads, tokens, 64] with the strides that a model gives them."""
        x = torch.randn(1, tokens, heads, 64, generator=self._generator, device="cpu")
        return x.to(self._device, self._dtype).transpose(1, 2)

    def _attention_s(self, tokens: int) -> float:
        query, key, value = (self._heads(tokens, heads) for heads in (14, 2, 2))
        recorder = recorder_for(self._device)
        with recorder.span("attention"):
            scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return recorder.seconds()["attention"]
