"""Pictures for papers and reports: each function takes data and returns a matplotlib Figure.

Every file of this folder is imported, so a plot that one registers is known to ``aim-cost plot``.
"""

from aim_cost.imports import import_files
from aim_cost.plots.break_even import break_even, payoff
from aim_cost.plots.methods import methods
from aim_cost.plots.pareto import pareto, pareto_front, pareto_points
from aim_cost.plots.registry import PLOTS, Request, plot
from aim_cost.plots.roofline import roofline
from aim_cost.plots.style import SUFFIXES, save
from aim_cost.plots.tokens import tokens
from aim_cost.plots.ttft import ttft

__all__ = [
    "PLOTS",
    "SUFFIXES",
    "Request",
    "break_even",
    "methods",
    "pareto",
    "pareto_front",
    "pareto_points",
    "payoff",
    "plot",
    "roofline",
    "save",
    "tokens",
    "ttft",
]

import_files(__name__, __path__)
