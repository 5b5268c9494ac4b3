"""The published methods of visual-token reduction as Schedules, and what papers print for them."""

from aim_cost.methods.library import METHODS, get_method, parse_methods
from aim_cost.methods.method import Method, Request, Setting
from aim_cost.methods.parameter import Parameter
from aim_cost.papers.figures import Figure, published_figures

__all__ = [
    "METHODS",
    "Figure",
    "Method",
    "Parameter",
    "Request",
    "Setting",
    "get_method",
    "parse_methods",
    "published_figures",
]
