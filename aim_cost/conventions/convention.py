"""Convention: a way to count FLOPs. Each is stated here and nowhere else."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from aim_cost.checks import one_of
from aim_cost.conventions.executed import build_executed
from aim_cost.conventions.llm_viewer import build_llm_viewer
from aim_cost.conventions.multiply_adds import (
    LayerMacs,
    build_multiply_adds,
    fastv_layer_macs,
    fastvid_layer_macs,
    pdrop_layer_macs,
)
from aim_cost.errors import SpecError
from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Execution, LastLayer, Workload
from aim_cost.ops.op import OpGraph
from aim_cost.schedules.schedule import EXECUTED_RULE, Schedule, TokenRule
from aim_cost.schedules.trace import TokenTrace


@dataclass(frozen=True)
class Convention:
    """A way to count one prefill.

    Args:
        name: as given to ``--convention``.
        summary: what it is, in a sentence.
        rule: how a schedule becomes token counts.
        build: the ops it counts.
        not_counted: what it leaves out, shown beside its numbers.
        ideal_time: its time is the roofline's, whatever the execution.
        counts_macs: papers give its figures in multiply-adds, MACs, half of the FLOPs.
    """

    name: str
    summary: str
    rule: TokenRule
    build: Callable[[ModelSpec, Workload, TokenTrace, Execution], OpGraph]
    not_counted: tuple[str, ...]
    ideal_time: bool = False
    counts_macs: bool = False

    def trace(
        self, schedule: Schedule, model: ModelSpec, workload: Workload, execution: Execution
    ) -> TokenTrace:
        """The tokens that this convention counts.

        Raises: ScheduleError, as ``Schedule.resolve``; SpecError for a last layer that computes
        only what is needed, which the papers do not count.
        """
        found = schedule.resolve(model, workload, self.rule)
        if execution.last_layer is LastLayer.ALL:
            return found
        if self.build is not build_executed:
            raise SpecError(
                "last_layer",
                expected=f"all: the convention {self.name} counts whole layers",
                got=execution.last_layer,
                fix="Use the convention executed, or last_layer all.",
            )
        return found.last_needed()


EXECUTED = Convention(
    name="executed",
    summary="what aim_runtime runs, as torch.utils.flop_counter counts it",
    rule=EXECUTED_RULE,
    build=build_executed,
    not_counted=("softmax", "norms", "elementwise", "sorting", "causal skipping"),
)

LLM_VIEWER = Convention(
    name="llm-viewer",
    summary="the arithmetic of AIM's published tables: the LLM alone, eager attention",
    rule=TokenRule(counts_newline=False, layer_delay=0),
    build=build_llm_viewer,
    not_counted=("vision tower", "merging", "importance", "newline", "padded vocabulary"),
    ideal_time=True,
)


def _multiply_adds(name: str, summary: str, layer_macs: LayerMacs) -> Convention:
    return Convention(
        name=name,
        summary=summary,
        rule=TokenRule(counts_newline=False, layer_delay=1, least_text_tokens=0),
        build=partial(build_multiply_adds, layer_macs),
        not_counted=(
            *("vision tower", "merging", "importance", "newline", "lm_head", "softmax", "norms"),
            *("elementwise", "causal skipping", "memory traffic"),
        ),
        ideal_time=True,
        counts_macs=True,
    )


FASTV = _multiply_adds(
    "fastv",
    "multiply-adds of the LLM's layers as FastV, DyCoke and HoliTom count them",
    fastv_layer_macs,
)

PDROP = _multiply_adds(
    "pdrop",
    "multiply-adds of the LLM's layers as PyramidDrop, SparseVLM and FitPrune count them",
    pdrop_layer_macs,
)

FASTVID = _multiply_adds(
    "fastvid",
    "multiply-adds of the LLM's layers as FastVID counts them",
    fastvid_layer_macs,
)

CONVENTIONS = {
    convention.name: convention for convention in (EXECUTED, LLM_VIEWER, FASTV, PDROP, FASTVID)
}


def get_convention(name: str) -> Convention:
    """The convention of that name. Raises SpecError that lists them."""
    return CONVENTIONS[one_of(name, CONVENTIONS, "convention", SpecError)]


def parse_conventions(text: str) -> list[Convention]:
    """Read ``executed,fastv``, or ``all``. Raises SpecError that lists the names."""
    names = list(CONVENTIONS) if text == "all" else text.split(",")
    return [get_convention(name.strip()) for name in names]
