"""AIM's importance score, kernel by kernel: time, memory, and how far the two differ.

``python -m benchmarks.importance [--tokens 1669 --tokens 6373] [--model NAME] [--out rows.json]``.
Random q and k of one layer of a model, the 7B by default (28 heads of 128, 4 of them with keys). On
a GPU both kernels are timed; on a CPU the one of torch alone, and the memory of the other is that
which its tests hold.
"""

import json
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from aim_cost.cli.options import DtypeOption, new_app, run
from aim_cost.files import write_atomically
from aim_cost.models.model import load_model_spec
from aim_cost.models.text_spec import TextSpec
from aim_cost.render import console, table
from aim_cost.units import dtype_bytes, show, show_time
from aim_runtime.measurement.environment import environment
from aim_runtime.measurement.memory import track_peak_bytes
from aim_runtime.models.load import default_device
from aim_runtime.reduction.importance import pagerank_importance

app = new_app(__doc__)

Row = dict[str, Any]


@app.command()
def importance(
    tokens: Annotated[list[int], typer.Option(min=1, help="Tokens entering the layer.")] = [  # noqa: B006
        413,
        1669,
    ],
    model: Annotated[str, typer.Option(help="A preset, or its config.json.")] = (
        "llava-onevision-qwen2-7b"
    ),
    dtype: DtypeOption = "bfloat16",
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs; the median counts.")] = 20,
    out: Annotated[Path | None, typer.Option(help="Rows and environment as JSON.")] = None,
) -> None:
    """Time each kernel at each number of tokens."""
    dtype_bytes(dtype)
    device = torch.device(default_device())
    text = load_model_spec(model).text
    rows = [row for n in tokens for row in _rows(text, n, device, dtype, repeats)]
    if out is not None:
        content = {"environment": environment(), "rows": rows}
        write_atomically(out, (json.dumps(content, indent=2) + "\n").encode())
    console().print(
        table(
            f"Importance of one layer, {dtype}, {device.type}, median of {repeats}",
            ("kernel", "tokens", "time", "scratch", "largest difference"),
            [
                (
                    row["kernel"],
                    str(row["tokens"]),
                    "-" if row["time_s"] is None else show_time(row["time_s"]),
                    show(row["scratch_bytes"], "B"),
                    "-" if row["difference"] is None else f"{row['difference']:.1e}",
                )
                for row in rows
            ],
            note="Difference: of a score to torch's, relative, among scores over 1e-6.",
        )
    )


def _rows(text: TextSpec, tokens: int, device: torch.device, dtype: str, repeats: int) -> list[Row]:
    heads, head_dim = text.num_attention_heads, text.head_dim
    generator = torch.Generator(device).manual_seed(0)
    query, key = (
        torch.randn(1, tokens, count, head_dim, device=device, generator=generator)
        .to(getattr(torch, dtype))
        .transpose(1, 2)
        for count in (heads, text.num_key_value_heads)
    )
    scaling = head_dim**-0.5
    expected = pagerank_importance(query, key, scaling=scaling)
    meta = query.to("meta"), key.to("meta")
    peak = track_peak_bytes(lambda: pagerank_importance(*meta, scaling=scaling)).peak_bytes
    shared = {"tokens": tokens, "dtype": dtype, "heads": heads, "head_dim": head_dim}
    torch_row = {
        "kernel": "torch",
        **shared,
        "time_s": _seconds(pagerank_importance, query, key, repeats),
        "scratch_bytes": peak,
        "difference": 0.0,
    }
    triton_row = {
        "kernel": "triton",
        **shared,
        "time_s": None,
        "scratch_bytes": (4 * heads + 1) * tokens * 4,
        "difference": None,
    }
    if device.type == "cuda":
        from aim_runtime.reduction.importance_triton import fused_importance

        triton_row["time_s"] = _seconds(fused_importance, query, key, repeats)
        scores = fused_importance(query, key, scaling=scaling)
        large = expected > 1e-6
        triton_row["difference"] = float(((scores - expected).abs() / expected)[large].max())
    return [torch_row, triton_row]


def _seconds(kernel: Any, query: Tensor, key: Tensor, repeats: int) -> float:
    """Median of ``repeats`` runs after two that warm up, each waited for."""
    times = []
    for _ in range(repeats + 2):
        _wait(query.device)
        start = time.perf_counter()
        kernel(query, key, scaling=query.shape[-1] ** -0.5)
        _wait(query.device)
        times.append(time.perf_counter() - start)
    return median(times[2:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    run(app)
