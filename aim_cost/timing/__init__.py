"""Time of kernels: laws fitted to measurements, with their bands.

To predict: ``OpTimeModel.from_calibration(load_calibration("h100-sxm")).time(op)``. To fit and to
judge a fit: ``aim_cost.timing.fit.calibrate`` and ``aim_cost.timing.fit.evaluate``, which need
pandas.
"""

from aim_cost.timing.calibration import Calibration, calibration_names, load_calibration
from aim_cost.timing.op_time import EXECUTIONS, OpTime, OpTimeModel

__all__ = [
    "EXECUTIONS",
    "Calibration",
    "OpTime",
    "OpTimeModel",
    "calibration_names",
    "load_calibration",
]
