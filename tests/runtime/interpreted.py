"""Run the Triton kernels in Triton's interpreter: ``python -m tests.runtime.interpreted IN OUT``.

A process of its own: the interpreter must be chosen before triton is first imported, and torch
imports it early. IN holds NAME.query and NAME.key as the model lays them out, [B, n, heads, d],
NAME.padding where there is any, and the other arguments as metadata; OUT gets NAME.scores,
NAME.launches and, where the metadata say ``repeat``, NAME.again and NAME.peak_bytes of a second
run.
"""

import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton.language as tl
from safetensors import safe_open
from safetensors.torch import save_file
from triton.runtime import interpreter

from aim_runtime.measurement.memory import track_peak_bytes
from aim_runtime.reduction.importance_triton import _importance, fused_importance

_Builder = interpreter.InterpreterBuilder
_stock_dot, _stock_cast = _Builder.create_dot, _Builder.cast_impl
_stock_launch = interpreter.GridExecutor.__call__
_launches = 0


def _dot(self, a, b, *rest):
    """The interpreter keeps bfloat16 as integers, and would multiply those."""
    a, b = (self.cast_impl(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
    return _stock_dot(self, a, b, *rest)


def _cast(self, source, target):
    """The interpreter cuts float32 off to bfloat16; devices round to nearest, ties to even."""
    if source.dtype.scalar == tl.float32 and target.scalar == tl.bfloat16:
        bits = np.ascontiguousarray(source.data).view(np.uint32)
        rounded = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16
        return interpreter.TensorHandle(rounded.astype(np.uint16), tl.bfloat16)
    return _stock_cast(self, source, target)


def _launch(self, *args, **kwargs):
    global _launches
    _launches += 1
    return _stock_launch(self, *args, **kwargs)


def _score(query, key, arguments):
    global _launches
    _launches = 0
    found = {"scores": fused_importance(query, key, **arguments)}
    return found | {"launches": torch.tensor(_launches)}


def _repeat(query, key, arguments):
    """Once more, as the body of the operator: from outside, its own memory is not seen."""
    again = []
    peak = track_peak_bytes(
        lambda: again.append(_importance._init_fn(query, key, **{"padding": None} | arguments)),
    )
    return {"again": again[0], "peak_bytes": torch.tensor(peak.peak_bytes)}


def main(given: str, out: str) -> None:
    """Score every case of the file ``given``."""
    _Builder.create_dot, _Builder.cast_impl = _dot, _cast
    interpreter.GridExecutor.__call__ = _launch
    results = {}
    with safe_open(given, "pt") as file:
        names = file.keys()
        for name, text in file.metadata().items():
            query, key = (file.get_tensor(f"{name}.{x}").transpose(1, 2) for x in ("query", "key"))
            arguments = json.loads(text)
            repeat = arguments.pop("repeat")
            if f"{name}.padding" in names:
                arguments["padding"] = file.get_tensor(f"{name}.padding")
            found = _score(query, key, arguments)
            if repeat:
                found |= _repeat(query, key, arguments)
            results |= {f"{name}.{what}": value for what, value in found.items()}
    save_file(results, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
