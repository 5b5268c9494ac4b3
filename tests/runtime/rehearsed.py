"""A campaign whose truth is known: a stand-in's clock is the model, one tenth slower."""

from typer.testing import CliRunner

from aim_cost.devices.hardware import load_hardware
from aim_runtime.campaigns.campaign import run_campaign
from aim_runtime.campaigns.stand_in import StandIn
from aim_runtime.campaigns.steps import default_steps
from aim_runtime.cli.main import app

SLOWER = 1.1


class SlowDevice(StandIn):
    """One tenth slower than the public calibration says, without noise."""

    def tick(self, seconds):
        return super().tick(SLOWER * seconds)


def steps():
    """7B at 32 frames eager and as graphs, its kernels, 8 frames, decoding, masked; and 0.5B."""
    chosen = default_steps()
    return [*chosen[:4], *chosen[6:9]]


def campaign(folder):
    """Rehearse a few steps without noise; the folder holds their rows."""
    device = SlowDevice(load_hardware("h100-sxm"), noise=0.0)
    run_campaign(steps(), folder, device, minutes=60)
    return folder


def as_measured(tree):
    """Make rows of a device of those of a rehearsal."""
    for step in tree["steps"]:
        step["device"] = "NVIDIA H100"
        del step["environment"]["rehearsal"]
    for row in tree["rows"]:
        row["hardware"] = "NVIDIA H100"
        del row["rehearsal"]


def invoke(*arguments):
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result
