"""Analytical cost of multimodal LLM inference under visual-token reduction.

The public names are imported when they are first used, so ``import aim_cost`` takes milliseconds
and loads neither pandas nor matplotlib before a name needs them.
"""

from typing import TYPE_CHECKING

from aim_cost.imports import lazy_names

if TYPE_CHECKING:
    from aim_cost import plots as plots
    from aim_cost.case import Case as Case
    from aim_cost.case import Estimate as Estimate
    from aim_cost.case import estimate as estimate
    from aim_cost.devices.hardware import HardwareProfile as HardwareProfile
    from aim_cost.devices.hardware import load_hardware as load_hardware
    from aim_cost.errors import AimError as AimError
    from aim_cost.models.model import ModelSpec as ModelSpec
    from aim_cost.models.model import load_model_spec as load_model_spec
    from aim_cost.models.model import preset_config as preset_config
    from aim_cost.models.parameters import model_parameters as model_parameters
    from aim_cost.models.workload import Execution as Execution
    from aim_cost.models.workload import Workload as Workload
    from aim_cost.schedules.schedule import Schedule as Schedule
    from aim_cost.studies.compare import compare as compare
    from aim_cost.studies.plan import plan as plan
    from aim_cost.sweeps import pairs as pairs
    from aim_cost.sweeps import sweep as sweep

_HOMES = {
    "AimError": "aim_cost.errors",
    "Case": "aim_cost.case",
    "Estimate": "aim_cost.case",
    "Execution": "aim_cost.models.workload",
    "HardwareProfile": "aim_cost.devices.hardware",
    "ModelSpec": "aim_cost.models.model",
    "Schedule": "aim_cost.schedules.schedule",
    "Workload": "aim_cost.models.workload",
    "compare": "aim_cost.studies.compare",
    "estimate": "aim_cost.case",
    "load_hardware": "aim_cost.devices.hardware",
    "load_model_spec": "aim_cost.models.model",
    "model_parameters": "aim_cost.models.parameters",
    "pairs": "aim_cost.sweeps",
    "plan": "aim_cost.studies.plan",
    "plots": "aim_cost.plots",
    "preset_config": "aim_cost.models.model",
    "sweep": "aim_cost.sweeps",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept any name
    __getattr__, __dir__ = lazy_names(__name__, _HOMES)
