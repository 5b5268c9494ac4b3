"""Pictures for papers and reports: each function takes data and returns a matplotlib Figure."""

from aim_cost.plots.break_even import break_even
from aim_cost.plots.pareto import pareto
from aim_cost.plots.roofline import roofline
from aim_cost.plots.style import save
from aim_cost.plots.tokens import tokens
from aim_cost.plots.ttft import ttft

__all__ = ["break_even", "pareto", "roofline", "save", "tokens", "ttft"]
