"""The place of a run: device, versions and attention backend, as its row has them."""

import torch

from aim_cost.models.workload import LastLayer, Workload
from aim_cost.schedules.schedule import Schedule
from aim_runtime.measurement.attention_backend import AttentionBackend, chosen_backend
from aim_runtime.measurement.row_key import RowKey, RunKey
from aim_runtime.measurement.run_kind import RunKind
from aim_runtime.models.load import Loaded
from aim_runtime.reduction.importance_kernel import scoring


def device_name(device: torch.device) -> str:
    """What the driver calls a GPU; ``cpu`` for a CPU, which the environment describes."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def run_key(
    loaded: Loaded,
    workload: Workload,
    schedule: Schedule,
    execution: RunKind = RunKind.EAGER,
    last_layer: LastLayer = LastLayer.ALL,
) -> RunKey:
    """The key of a run of ``loaded`` where it lies."""
    return RunKey.to_run(
        loaded.spec,
        workload,
        schedule,
        dtype=loaded.dtype,
        execution=execution,
        scoring=scoring(loaded.device),
        last_layer=last_layer,
    )


def row_key(
    loaded: Loaded,
    workload: Workload,
    schedule: Schedule,
    execution: RunKind = RunKind.EAGER,
    last_layer: LastLayer = LastLayer.ALL,
    *,
    attention: AttentionBackend | None = None,
    visit: int = 1,
    answer_tokens: int = 1,
) -> RowKey:
    """The key of the row of such a run.

    Args: attention, the backend of all attentions; None for the one that torch chooses.
    Raises: MeasurementError where torch has none.
    """
    backend = attention or chosen_backend(loaded.spec.text, loaded.device, loaded.dtype)
    run = run_key(loaded, workload, schedule, execution, last_layer)
    return RowKey(run, device_name(loaded.device), backend.value, visit, answer_tokens)
