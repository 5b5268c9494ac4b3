"""Prices whole prefills that others measured, with a calibration that was not fitted to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from aim_cost.devices.hardware import load_hardware
from aim_cost.files.text import text_of
from aim_cost.files.yaml_text import yaml_tree
from aim_cost.models.decoder import embedding_ops, layer_ops
from aim_cost.models.text_spec import TextSpec
from aim_cost.ops.kernels import Kernels
from aim_cost.ops.kind import Elementwise
from aim_cost.ops.op import Op
from aim_cost.timing.calibration import Calibration
from aim_cost.timing.op_time import OpTimeModel

_WIDTH_BYTES = 2
_VOCABULARY = 32000


@dataclass(frozen=True)
class PrefillRow:
    """One published prefill: what ran, measured and predicted seconds, the band, the bound."""

    runtime: str
    model: str
    hardware: str
    tokens: int
    batch: int
    measured_s: float
    predicted_s: float
    low_s: float
    high_s: float
    host_bound: bool

    @property
    def error(self) -> float:
        """Predicted over measured, minus one."""
        return self.predicted_s / self.measured_s - 1


def published_prefills(calibration: Calibration) -> list[PrefillRow]:
    """Price each published prefill. Time of a layer: the longer of device and host (eager)."""
    tree = yaml_tree(text_of(files("aim_cost.timing.fit") / "prefills.yaml"))
    rows = []
    for run in tree["runs"]:
        eager = run["execution"] == "eager"
        spec = _spec(tree["models"][run["model"]])
        profile = load_hardware(run["hardware"])
        model = OpTimeModel.from_calibration(calibration, profile, "float16", run["execution"])
        for tokens, batch, milliseconds in run["rows"]:
            parts = _segments(spec, batch, tokens // batch, run["attention"], eager)
            total, low, high, host_bound = 0.0, 0.0, 0.0, False
            for count, ops in parts:
                device = model.times(ops)
                host = float(model.host_s(ops).sum())
                host_bound |= count > 1 and host > float(device.time_s.sum())
                total += count * max(float(device.time_s.sum()), host)
                low += count * max(float(device.low_s.sum()), host)
                high += count * max(float(device.high_s.sum()), host)
            rows.append(
                PrefillRow(
                    run["runtime"],
                    run["model"],
                    run["hardware"],
                    tokens,
                    batch,
                    milliseconds / 1e3,
                    total,
                    low,
                    high,
                    host_bound,
                )
            )
    return rows


def mean_error(rows: Sequence[PrefillRow]) -> float:
    """The mean of |error|, a fraction."""
    return float(np.mean([abs(row.error) for row in rows]))


def _spec(dims: dict[str, int]) -> TextSpec:
    heads = dims["num_attention_heads"]
    return TextSpec(
        model_type="llama",
        hidden_size=dims["hidden_size"],
        intermediate_size=dims["intermediate_size"],
        num_hidden_layers=dims["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=dims["hidden_size"] // heads,
        vocab_size=_VOCABULARY,
        tie_word_embeddings=False,
    )


def _segments(
    spec: TextSpec, batch: int, tokens: int, attention: str, eager: bool
) -> list[tuple[int, list[Op]]]:
    """Equal segments with their count: before the layers, a layer, and the head.

    transformers 4.35 computes the logits of all positions and casts them to float32; the engines
    compute those of the last one.
    """
    layer = layer_ops(spec, batch, tokens, tokens, attention, _WIDTH_BYTES)
    hidden, rows = spec.hidden_size, batch * tokens
    if attention == "eager":  # torch.matmul copies q, k and v; the output is made contiguous
        copies = 4 * rows * hidden
        layer.append(
            Kernels("llm.layers", _WIDTH_BYTES).elementwise(
                "copies", Elementwise.COPY, copies, copies
            )
        )
    head = Kernels("llm.head", _WIDTH_BYTES)
    positions = rows if eager else batch
    logits = positions * spec.vocab_size
    tail = [
        head.elementwise("final_norm", Elementwise.RMS_NORM, rows * hidden, rows * hidden),
        head.linear("lm_head", positions, hidden, spec.vocab_size),
    ]
    if eager:
        tail.append(head.elementwise("logits_to_float32", Elementwise.COPY, logits, 2 * logits))
    start = embedding_ops(batch, tokens, hidden, _WIDTH_BYTES)[:1]
    return [(1, start), (spec.num_hidden_layers, layer), (1, tail)]
