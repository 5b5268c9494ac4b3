"""A campaign: prefills, kernels and decoding within a budget of minutes, resumable, in one file."""

import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from aim_cost.files import make_folder
from aim_cost.render import say
from aim_runtime.campaigns.cost import Costs
from aim_runtime.campaigns.file import BudgetSpent, CampaignFile
from aim_runtime.campaigns.plan import Agenda, Planned
from aim_runtime.campaigns.predictions_file import PREDICTIONS, PredictionsFile
from aim_runtime.campaigns.record import Status
from aim_runtime.campaigns.runner import Runner
from aim_runtime.campaigns.setting import Setting
from aim_runtime.campaigns.step import DecodeStep, KernelStep, PrefillStep, Step
from aim_runtime.errors import MeasurementError, error_line
from aim_runtime.measurement.run_kind import RunKind

_TRACE_LINES = 12


def agenda_of(
    steps: Sequence[Step],
    file: CampaignFile | None,
    setting: Setting,
    *,
    retry: bool = False,
    started: bool = False,
) -> Agenda:
    """What is left of ``steps``, without those that the device's memory cannot hold.

    Args: file, what was done before; retry, as in ``run_campaign``; started, as in ``Agenda``.
    Raises: MeasurementError when it holds none.
    """
    costs = Costs(setting)
    possible = [step for step in steps if costs.fits_memory(step)]
    if not possible:
        raise MeasurementError(
            f"memory of {setting.hardware.name}",
            expected="room for the smallest step of a campaign",
            got=f"{setting.hardware.memory_bytes / 1e9:.0f} GB",
            fix="Measure smaller workloads by aim-runtime measure.",
        )
    left, visits = possible, 1
    prefills = (step for step in possible if isinstance(step, PrefillStep))
    first = next((step for step in prefills if step.execution is RunKind.EAGER), None)
    if file is not None:
        left = [step for step in possible if not file.is_done(step, setting, retry=retry)]
        if first is not None:
            visits = file.visits(setting.row_keys(first)[0])
            first = first if visits or first in left else None  # it has failed
    return Agenda(left, first, costs, visit=max(1, visits) + 1, started=started)


def run_campaign(
    steps: Sequence[Step],
    folder: Path,
    runner: Runner,
    *,
    minutes: float,
    begun: float | None = None,
    retry: bool = False,
) -> CampaignFile:
    """Run what is left of ``steps``, in their order, as far as the minutes reach.

    A step begins only when its predicted time fits what is left; else the next one that fits runs.
    One that fails is noted with its error, and the next goes on. Ctrl-C and SIGTERM end the
    campaign: what was measured is in the file, and the step that ran is not done. Rows without a
    prediction in the folder get one before anything is timed.

    Args:
        begun: when the minutes began, by the clock of ``runner``; now without it.
        retry: steps and rows that failed before are tried again.
    Returns: the file. Raises: MeasurementError when the folder holds another campaign or the rows
        of another GPU; KeyboardInterrupt.
    """
    setting, end = runner.setting, (runner.now() if begun is None else begun) + 60 * minutes
    make_folder(folder)
    file, environment = CampaignFile(folder), runner.environment()
    file.require_same_device(setting, environment)
    PredictionsFile(folder / PREDICTIONS).add(steps, setting, environment.commit)
    agenda = agenda_of(steps, file, setting, retry=retry, started=begun is not None)
    with _interrupts() as interrupts:
        while (planned := agenda.next(end - runner.now())) is not None:
            status = _run_step(planned, file, runner, end, interrupts)
            if status is Status.STOPPED:
                break
            agenda.ran(planned.step, failed=status is Status.FAILED)
    if agenda.left and not agenda.any_ran:
        say(f"no step fits: the shortest needs about {agenda.shortest_s():.0f} s")
    if agenda.left:
        say(f"{len(agenda.left)} steps are left: run the same command again")
    return file


class _Interrupts:
    """Whether somebody asked to stop: measurements catch Ctrl-C and return what they have."""

    asked = False


@contextmanager
def _interrupts() -> Iterator[_Interrupts]:
    found = _Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        found.asked = True
        raise KeyboardInterrupt

    before: dict[int, Any] = {
        number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_step(
    planned: Planned, file: CampaignFile, runner: Runner, end: float, interrupts: _Interrupts
) -> Status:
    """Run one step and note how it ended. Returns: its status; ``stopped`` ends the campaign."""
    step, start = planned.step, runner.now()
    say(f"{step.label}: about {planned.seconds:.0f} s, {end - start:.0f} s are left")
    number = file.begin(step, runner.setting, runner.environment(), runner.state(), planned.seconds)
    status, error = Status.DONE, None
    try:
        _measure(step, file, number, runner, end, interrupts)
    except BudgetSpent:
        status = Status.STOPPED
        say("the minutes are over: the rows hold the rounds that were finished")
    except Exception as failure:  # whatever it is, the next step may work: memory above all
        status, error = Status.FAILED, f"{error_line(failure)}\n{_trace(failure)}"
        say(f"failed: {error_line(failure)}")
    except BaseException:
        file.end(number, Status.STOPPED, runner.now() - start, runner.state())
        raise
    file.end(number, status, runner.now() - start, runner.state(), error)
    if status is Status.FAILED:
        try:
            runner.free()  # only now: until here the traceback held the tensors of the step
        except Exception as failure:  # an error of a kernel ends the CUDA context
            say(f"the device is lost ({error_line(failure)}): run the same command again")
            return Status.STOPPED
    return status


def _measure(
    step: Step,
    file: CampaignFile,
    number: int,
    runner: Runner,
    end: float,
    interrupts: _Interrupts,
) -> None:
    store = file.store(number, end, runner.now)
    if isinstance(step, KernelStep):
        seconds = Costs(runner.setting).kernel_seconds(step)
        tables = runner.kernels(step, seconds)
        if interrupts.asked:
            raise KeyboardInterrupt
        file.add_kernels(number, step, tables)
        return
    if isinstance(step, DecodeStep):
        rows = runner.decode(step)
        if interrupts.asked:
            raise KeyboardInterrupt
        store.save(rows)
        return
    runner.prefill(step, store)
    if interrupts.asked:
        raise KeyboardInterrupt


def _trace(error: BaseException) -> str:
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(lines[-_TRACE_LINES:])
