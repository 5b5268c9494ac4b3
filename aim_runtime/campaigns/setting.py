"""Setting: what all rows of one call of a campaign share."""

from dataclasses import dataclass

import torch

from aim_cost.devices.hardware import HardwareProfile
from aim_runtime.campaigns.step import DecodeStep, KernelStep, Step
from aim_runtime.measurement.attention_backend import AttentionBackend, chosen_backend
from aim_runtime.measurement.row_key import RowKey, RunKey
from aim_runtime.measurement.run_kind import RunKind


@dataclass(frozen=True)
class Setting:
    """A device and how models run on it.

    Args:
        hardware: the profile that predictions are made with.
        device_name: as the driver names the device.
        scoring: ``torch`` or ``fused``.
        attention: the backend that was asked for.
        device: the device itself, where it is here.
        keeps_tower_states: whether the installed transformers keeps what every layer of the
            vision tower gives, which takes memory.
        rehearsal: whether no device runs and the clock is a model.
    """

    hardware: HardwareProfile
    device_name: str
    dtype: str
    scoring: str
    attention: AttentionBackend | None = None
    device: torch.device | None = None
    keeps_tower_states: bool = False
    rehearsal: bool = False

    @classmethod
    def presumed(
        cls,
        hardware: HardwareProfile,
        dtype: str,
        attention: AttentionBackend | None = None,
        device_name: str | None = None,
    ) -> "Setting":
        """That of a GPU which is not here."""
        return cls(hardware, device_name or hardware.name, dtype, "fused", attention)

    def backend(self, step: Step) -> AttentionBackend:
        """What a step's attention runs through.

        cuDNN builds a plan for every new length, so each token of a decoding would cost one: flash
        takes its place there, unless cuDNN was asked for.
        """
        if self.attention is not None:
            return self.attention
        if self.device is not None:
            chosen = chosen_backend(step.spec.text, self.device, self.dtype)
        else:  # torch 2.11 takes cuDNN first on Hopper
            hopper = self.hardware.architecture.startswith("Hopper")
            chosen = AttentionBackend.cudnn if hopper else AttentionBackend.flash
        if isinstance(step, DecodeStep) and chosen is AttentionBackend.cudnn:
            return AttentionBackend.flash
        return chosen

    def row_keys(self, step: Step) -> tuple[RowKey, ...]:
        """Of the rows that a step leaves, in the order of its schedules."""
        if isinstance(step, KernelStep):
            return ()
        visit = 1 if isinstance(step, DecodeStep) else step.visit
        return tuple(
            RowKey(
                RunKey.to_run(
                    step.spec,
                    step.workload,
                    schedule,
                    dtype=self.dtype,
                    execution=RunKind.DECODE if isinstance(step, DecodeStep) else step.execution,
                    scoring=self.scoring,
                ),
                self.device_name,
                self.backend(step).value,
                visit,
            )
            for schedule in step.schedules
        )
