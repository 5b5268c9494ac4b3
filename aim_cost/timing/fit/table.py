"""KernelTable: measured kernel times, read from Parquet or CSV."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aim_cost.checks import one_of
from aim_cost.errors import ProfileError
from aim_cost.files.csv_text import read_csv
from aim_cost.imports import import_optional
from aim_cost.ops.kind import (
    CausalAttention,
    Elementwise,
    EncoderAttention,
    FusedImportance,
    Product,
)
from aim_cost.timing.elementwise import Dispatch
from aim_cost.timing.form import Array, Form, Index, Mask
from aim_cost.timing.forms import FORMS

_COLUMN_OF = {
    "tokens": "sequence_length",
    "batch": "batch_size",
    "heads": "num_heads",
    "key_value_heads": "num_key_value_heads",
}
_PREFIX_OF = {"a100-sxm4-80gb": "a100_sxm"}
_SUFFIX_OF = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


@dataclass(frozen=True)
class KernelTable:
    """Measured kernels of one kind: sizes, [N] each in the order of ``form.dims``, and seconds."""

    form: Form
    dims: tuple[Array, ...]
    time_s: Array
    source: str

    def __len__(self) -> int:
        return len(self.time_s)

    def rows(self, keep: Mask | Index) -> "KernelTable":
        """The rows where ``keep`` (a mask or indices) points."""
        dims = tuple(size[keep] for size in self.dims)
        return KernelTable(self.form, dims, self.time_s[keep], self.source)

    def shapes(self) -> Index:
        """One number for the shape of each row: (n, k) of a GEMM, the heads of attention."""
        fixed = self.dims[1:] if self.form.op == "gemm" else self.dims[2:]
        kinds: Index = np.unique(np.stack(fixed), axis=1, return_inverse=True)[1].ravel()
        return kinds


def table_name(gpu: str, op: str, dtype: str = "bfloat16") -> str:
    """The name of a table's file without its ending, e.g. ``h100_sxm_gemm_bf16``."""
    prefix = _PREFIX_OF.get(gpu, gpu.replace("-", "_"))
    return f"{prefix}_{op}_{_SUFFIX_OF[dtype]}"


def size_columns(
    kind: Product | CausalAttention | EncoderAttention | FusedImportance,
) -> dict[str, int]:
    """The columns of a table that hold the sizes of a kernel, in the order of ``form.dims``."""
    sizes = zip(FORMS[kind.label].dims, kind.dims, strict=True)
    return {_COLUMN_OF.get(name, name): int(size) for name, size in sizes}


def table_path(folder: str | Path, gpu: str, op: str, dtype: str = "bfloat16") -> Path | None:
    """The file of one kind of kernel, e.g. ``h100_sxm_gemm_bf16.parquet`` (or .csv), if there."""
    stem = table_name(gpu, op, dtype)
    for ending in (".parquet", ".csv"):
        path = Path(folder) / (stem + ending)
        if path.is_file():
            return path
    return None


def load_kernels(folder: str | Path, gpu: str, dtype: str = "bfloat16") -> dict[str, KernelTable]:
    """The tables of ``gpu`` in a folder, by op.

    Raises: ProfileError when there is none, or one is malformed.
    """
    paths = {op: table_path(folder, gpu, op, dtype) for op in FORMS}
    tables = {op: load_table(path, op) for op, path in paths.items() if path is not None}
    if not tables:
        raise ProfileError(
            f"{folder}",
            expected=f"tables such as {table_name(gpu, 'gemm', dtype)}.parquet",
            got="none of them",
            fix="Give the folder of the tables (--kernels DIR) and the name of the device.",
        )
    return tables


def load_table(path: str | Path, op: str) -> KernelTable:
    """Read one table: the size columns of ``op`` and ``latency_ms``; other columns are ignored.

    Raises: ProfileError for an unreadable file, a missing column, or a value that is not positive.
    """
    form, where = FORMS[op], str(path)
    frame = _frame(Path(path), where)
    names = [_COLUMN_OF.get(name, name) for name in form.dims]
    if op == "encoder_attention" and "num_key_value_heads" not in frame:
        frame = frame.assign(num_key_value_heads=frame.get("num_heads"))
    wanted = [*names, "latency_ms"]
    _require(frame, wanted, where)
    columns = {name: _column(frame, name, where) for name in wanted}
    for name in names:
        if (odd := columns[name] != np.round(columns[name])).any():
            row = int(np.argmax(odd))
            raise ProfileError(
                f"{where}: {name}, row {row}",
                expected="a whole number",
                got=float(columns[name][row]),
                fix="Correct the table.",
            )
    dims = tuple(columns[name] for name in names)
    return KernelTable(form, dims, columns["latency_ms"] / 1e3, Path(path).name)


def load_elementwise(path: str | Path) -> dict[Elementwise, tuple[Array, Array, Array]]:
    """Read ``kind``, ``bytes``, ``parts`` and ``latency_ms``: bytes, parts and seconds by kind.

    Raises: ProfileError as ``load_table``, and for a kind that no op has.
    """
    columns, kinds = _measured(path, ("bytes", "parts", "latency_ms"), sorted(Elementwise))
    size, parts, time_s = columns["bytes"], columns["parts"], columns["latency_ms"] / 1e3
    return {
        Elementwise(kind): (size[kinds == kind], parts[kinds == kind], time_s[kinds == kind])
        for kind in sorted({str(kind) for kind in kinds})
    }


def load_dispatch(path: str | Path) -> dict[str, tuple[float, float, float]]:
    """Read ``kind``, ``latency_ms``, ``low_ms`` and ``high_ms``: the three in seconds by kind.

    Raises: ProfileError as ``load_table``, and for a kind that is no figure of Dispatch.
    """
    names = ("latency_ms", "low_ms", "high_ms")
    columns, kinds = _measured(path, names, [f.name for f in fields(Dispatch)])
    rows = zip(*(columns[name] / 1e3 for name in names), strict=True)
    return {
        str(kind): (float(value), float(low), float(high))
        for kind, (value, low, high) in zip(kinds, rows, strict=True)
    }


def _measured(
    path: str | Path, names: Iterable[str], known: Iterable[str]
) -> tuple[dict[str, Array], NDArray[np.str_]]:
    """Columns of numbers above zero, and the column ``kind``."""
    where, frame = str(path), _frame(Path(path), str(path))
    _require(frame, ["kind", *names], where)
    kinds = frame["kind"].to_numpy(dtype=np.str_)
    for kind in kinds:
        one_of(str(kind), known, f"{where}: kind", ProfileError)
    return {name: _column(frame, name, where) for name in names}, kinds


def _require(frame: pd.DataFrame, wanted: list[str], where: str) -> None:
    if missing := [name for name in wanted if name not in frame]:
        raise ProfileError(
            where,
            expected=f"the columns {', '.join(wanted)}",
            got=f"no {', '.join(missing)}",
            fix="Use the columns that aim-runtime microbench writes.",
        )
    if frame.empty:
        raise ProfileError(where, expected="at least one row", got="none", fix="Measure again.")


def _frame(path: Path, where: str) -> pd.DataFrame:
    if path.suffix != ".csv":
        import_optional("pyarrow", otherwise="convert the table to CSV with the same columns")
    try:
        if path.suffix != ".csv":
            return pd.read_parquet(path)
        table = read_csv(path)
        return pd.DataFrame(table.rows, columns=table.names)
    except (OSError, ValueError) as error:
        raise ProfileError(
            where,
            expected="a readable Parquet or CSV table",
            got=" ".join(str(error).split()),
            fix="Check the path and the file.",
        ) from error


def _column(frame: pd.DataFrame, name: str, where: str) -> Array:
    try:
        values = frame[name].to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ProfileError(
            f"{where}: {name}", expected="numbers", got=str(error), fix="Correct the table."
        ) from error
    wrong = ~(np.isfinite(values) & (values > 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ProfileError(
            f"{where}: {name}, row {row}",
            expected="a finite number above zero",
            got=float(values[row]),
            fix="Remove or measure again what is not a time or a size.",
        )
    return values
