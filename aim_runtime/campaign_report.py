"""A campaign's rows beside several predictions, those a fit may see apart from those held out.

No prefill that was measured goes into any prediction: the own calibration is fitted to the kernel
tables of the campaign alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aim_cost.conventions import EXECUTED, LLM_VIEWER, Convention
from aim_cost.estimate import Estimate, estimate
from aim_cost.hardware import HardwareProfile, load_hardware
from aim_cost.model import load_model_spec
from aim_cost.schedule import Schedule
from aim_cost.timing.calibrate import fit_calibration
from aim_cost.timing.calibration import Calibration, calibration_names, load_calibration
from aim_cost.workload import Execution, Workload
from aim_runtime.agreement import Row, errors_of, in_band, kendall_tau
from aim_runtime.campaign import KERNELS, PREFILL, held_out_schedules
from aim_runtime.device import profile_name
from aim_runtime.errors import MeasurementError
from aim_runtime.measure import read_rows
from aim_runtime.microbench import PROFILE_FILE

PREDICTED = ("eager", "cuda-graph")
"""Executions that the model prices; pruning by masks is measured only."""


@dataclass(frozen=True)
class Predictor:
    """One way to predict a time.

    Args: compares, the key of a row that it predicts: conventions of the LLM alone do not know
        ``ttft_s``.
    """

    name: str
    hardware: HardwareProfile
    calibration: Calibration | None = None
    convention: Convention = EXECUTED
    ideal: bool = False
    compares: str = "ttft_s"

    def predict(self, row: Row) -> Estimate:
        """The estimate of a measured row."""
        mode = "ideal" if self.ideal else row["execution"]
        return estimate(
            load_model_spec(row["model"]),
            Workload(text_tokens=row["text_tokens"], frames=row["frames"], batch=row["batch"]),
            Schedule.parse(row["schedule"]),
            self.hardware,
            Execution(dtype=row["dtype"], mode=mode, scoring=row["scoring"]),
            self.convention,
            self.calibration,
        )


def predictors(folder: Path, device: str, dtype: str) -> list[Predictor]:
    """The roofline of the datasheet, LLM-Viewer's, the public calibration, and the campaign's own.

    Raises: MeasurementError for a device without a profile.
    """
    name = profile_name(device)
    if name is None:
        raise MeasurementError(
            str(folder / PREFILL),
            expected="rows of a GPU with a profile",
            got=device,
            fix="Use validate, which measures the ceilings of this device.",
        )
    hardware = load_hardware(name)
    found = [
        Predictor("LLM-Viewer, LLM only", hardware, None, LLM_VIEWER, True, "llm.time_s"),
        Predictor("datasheet roofline", hardware, ideal=True),
    ]
    if name in calibration_names():
        found.append(Predictor("public tables", hardware, load_calibration(name)))
    tables = sorted((folder / KERNELS).glob(f"*/{PROFILE_FILE}"))
    for table in tables:
        own = load_hardware(table)
        calibration = fit_calibration(table.parent, own, dtype)
        found.append(Predictor(f"own kernels ({table.parent.name})", own, calibration))
    return found


def joined_rows(folder: Path) -> list[Row]:
    """Each measured row with ``held_out`` and, of each predictor, its prediction and error.

    Own kernels predict the rows of their own model alone. Errors are relative to the clock.
    """
    rows = [row for row in read_rows(folder / PREFILL) if not row["error"]]
    if not rows:
        raise MeasurementError(
            str(folder / PREFILL),
            expected="measured rows",
            got="none",
            fix="Run aim-runtime measure --suite h200 --out DIR.",
        )
    ways = predictors(folder, rows[0]["hardware"], rows[0]["dtype"])
    joined = []
    for row in rows:
        held_out = {schedule.label() for schedule in held_out_schedules(row["layers"])}
        row = row | {"held_out": row["schedule"] in held_out, "predictions": {}}
        for way in ways if row["execution"] in PREDICTED else ():
            if way.name.startswith("own") and row["model"] not in way.name:
                continue
            if row.get(way.compares) is None:
                continue
            row["predictions"][way.name.split(" (")[0]] = _prediction(way, row)
        joined.append(row)
    return joined


def _prediction(way: Predictor, row: Row) -> Row:
    found = way.predict(row)
    time = found.ttft if way.compares == "ttft_s" else found.time("llm")
    clock = row[way.compares]
    return {
        "time_s": time.time_s,
        "low_s": time.low_s,
        "high_s": time.high_s,
        "measured_s": clock,
        "error": time.time_s / clock - 1,
        "flops": found.flops,
        "peak_memory_bytes": found.memory.peak_bytes,
    }


def last_prediction(row: Row) -> Row | None:
    """That of the last predictor, the nearest to the device; None where nothing predicts."""
    return next(reversed(row["predictions"].values()), None)


def error_rows(rows: Sequence[Row]) -> list[Row]:
    """Of each predictor and split: rows, mape, bias, p95, tau, and the share in the 90 % band.

    ``kendall_tau`` is the mean over the groups that were timed together.
    """
    names = dict.fromkeys(name for row in rows for name in row["predictions"])
    table = []
    for name in names:
        for split, wanted in (("fit", False), ("held out", True)):
            chosen = [
                row for row in rows if name in row["predictions"] and row["held_out"] == wanted
            ]
            found = [row["predictions"][name] for row in chosen]
            if not found:
                continue
            table.append(
                {
                    "predictor": name,
                    "split": split,
                    "rows": len(found),
                    **errors_of([f["error"] for f in found]),
                    "kendall_tau": _mean_tau(chosen, name),
                    "in_band": in_band([(f["low_s"], f["measured_s"], f["high_s"]) for f in found]),
                }
            )
    return table


def _mean_tau(rows: Sequence[Row], name: str) -> float | None:
    groups: dict[tuple[object, ...], list[tuple[float, float]]] = {}
    for row in rows:
        key = (row["model"], row["frames"], row["text_tokens"], row["execution"])
        found = row["predictions"][name]
        groups.setdefault(key, []).append((found["time_s"], found["measured_s"]))
    taus = [tau for pairs in groups.values() if (tau := kendall_tau(pairs)) is not None]
    return sum(taus) / len(taus) if taus else None


def speedup_rows(rows: Sequence[Row]) -> list[Row]:
    """Of each schedule, measured gain over the unreduced eager prefill beside the FLOP ratio.

    ``reduction_share``: merging and scoring over the whole; ``memory_error`` of the peak predicted.
    """
    base = {
        (row["model"], row["frames"], row["text_tokens"]): row
        for row in rows
        if row["schedule"] == "none" and row["execution"] == "eager"
    }
    table = []
    for row in rows:
        plain = base.get((row["model"], row["frames"], row["text_tokens"]))
        if plain is None or row is plain:
            continue
        best, plain_best = last_prediction(row), last_prediction(plain)
        line = {
            **{name: row[name] for name in ("model", "frames", "text_tokens", "execution")},
            "schedule": row["schedule"],
            "ttft_speedup": plain["ttft_s"] / row["ttft_s"],
            "llm_speedup": None,
            "flop_ratio": None,
            "reduction_share": None,
            "memory_error": None,
        }
        if row.get("llm.time_s"):
            line["llm_speedup"] = plain["llm.time_s"] / row["llm.time_s"]
            spent = sum(row.get(f"{name}.time_s") or 0.0 for name in ("merge", "importance"))
            line["reduction_share"] = spent / row["ttft_s"]
        if best and plain_best:
            line["flop_ratio"] = plain_best["flops"] / best["flops"]
            if row.get("peak_memory_bytes"):
                line["memory_error"] = best["peak_memory_bytes"] / row["peak_memory_bytes"] - 1
        table.append(line)
    return table
