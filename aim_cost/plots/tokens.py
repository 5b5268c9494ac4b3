"""Tokens entering each layer, for several schedules."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from aim_cost.case import Estimate
from aim_cost.errors import ScheduleError
from aim_cost.plots.registry import Request, plot
from aim_cost.plots.style import COLOURS, COLUMN, DASHES, finish, new_figure, setting


def tokens(results: Sequence[Estimate]) -> Figure:
    """One line for each schedule: tokens entering each decoder layer; the grey floor is text.

    Args: results, estimates of one model and workload under up to six schedules.
    """
    first = results[0]
    layers = first.model.text.num_hidden_layers
    figure, axis = new_figure(COLUMN, 2.7 + 0.17 * len(results))
    text = first.trace.text_tokens
    axis.fill_between([0, layers], text, color="0.85", linewidth=0, label=f"text, {text}")
    for place, result in enumerate(results):
        counts = result.trace.attention_tokens
        axis.stairs(
            counts,
            range(layers + 1),
            baseline=None,
            color=COLOURS[place],
            linestyle=DASHES[place],
            linewidth=1.6,
            label=result.schedule.label(),
        )
    axis.set(xlim=(0, layers), ylim=(0, None))
    axis.set_xlabel("decoder layer")
    axis.set_ylabel("tokens entering")
    axis.yaxis.set_major_formatter("{x:,.0f}")
    title = f"{first.model.name}\n{setting(first)}"
    return finish(figure, title, keys=axis.get_legend_handles_labels())


@plot("tokens", "tokens entering each layer")
def _draw(request: Request) -> Figure:
    request.case()
    results = request.estimates()
    if len(results) > len(DASHES):
        raise ScheduleError(
            "--schedule",
            expected=f"at most {len(DASHES)} lines",
            got=len(results),
            fix="Drop some.",
        )
    return tokens(results)
