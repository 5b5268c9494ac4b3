"""Pictures for papers and reports: each function takes data and returns a matplotlib Figure."""

from aim_cost.plots.break_even import break_even, payoff
from aim_cost.plots.pareto import pareto, pareto_front, pareto_points
from aim_cost.plots.roofline import roofline
from aim_cost.plots.style import SUFFIXES, save
from aim_cost.plots.tokens import tokens
from aim_cost.plots.ttft import ttft

__all__ = [
    "SUFFIXES",
    "break_even",
    "pareto",
    "pareto_front",
    "pareto_points",
    "payoff",
    "roofline",
    "save",
    "tokens",
    "ttft",
]
