"""TableRequest: the methods of an efficiency table, and how they are counted and priced."""

from dataclasses import dataclass
from pathlib import Path

from aim_cost.case import Case
from aim_cost.conventions.convention import EXECUTED, Convention, parse_conventions
from aim_cost.devices.hardware import HardwareProfile
from aim_cost.errors import ScheduleError
from aim_cost.methods import parse_methods
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Execution, Workload
from aim_cost.studies.budget import get_budget
from aim_cost.studies.compare import Comparison, compare
from aim_cost.timing import Calibration

_ANY_DEVICE = "h100-sxm"
"""What a case without a device is priced on; FLOPs, tokens and bytes do not depend on it."""


@dataclass(frozen=True)
class TableRequest:
    """What an efficiency table is asked for, apart from the model and the prompt.

    Args:
        methods, conventions, equal, budget: as of ``compare``.
        hardware, calibration: as of ``Case``: what predicts times; without a device none are.
    """

    methods: str
    conventions: str = "all"
    equal: str | None = None
    budget: float | None = None
    hardware: HardwareProfile | str | None = None
    calibration: Calibration | str | Path | None = None

    @property
    def predicts_time(self) -> bool:
        return self.hardware is not None

    def published(self) -> tuple[Convention, ...]:
        """The conventions that papers use, of those asked for. Raises: SpecError."""
        asked = dict.fromkeys(parse_conventions(self.conventions))
        return tuple(convention for convention in asked if convention is not EXECUTED)

    def check(self, spec: ModelSpec, workload: Workload) -> None:
        """Refuse a wrong name or number before any weights are made.

        Raises: ScheduleError, SpecError or ProfileError, as ``compare`` would.
        """
        case = self._case(spec, workload)
        self.published()
        for request in parse_methods(self.methods):
            request.method.check(spec, request.given)
        get_budget(case, self.equal, self.budget)

    def compare(self, spec: ModelSpec, workload: Workload, execution: Execution) -> Comparison:
        """Each method under ``executed`` and then each of ``published``."""
        names = [EXECUTED.name, *(convention.name for convention in self.published())]
        case = self._case(spec, workload, execution)
        return compare(case, self.methods, ",".join(names), equal=self.equal, budget=self.budget)

    def _case(
        self, spec: ModelSpec, workload: Workload, execution: Execution | None = None
    ) -> Case:
        if not self.predicts_time and (self.equal == "time" or self.calibration is not None):
            raise ScheduleError(
                "--hardware",
                expected="a profile beside --equal time and --calibration",
                got="none",
                fix="Name the device whose predicted times are meant (aim-cost hardware).",
            )
        device = self.hardware or _ANY_DEVICE
        return Case(spec, workload, device, execution, self.calibration)
