"""The published methods of visual-token reduction as Schedules."""

from aim_cost.methods.library import METHODS, get_method, parse_methods
from aim_cost.methods.method import Method, Request, Setting
from aim_cost.methods.parameter import Parameter

__all__ = [
    "METHODS",
    "Method",
    "Parameter",
    "Request",
    "Setting",
    "get_method",
    "parse_methods",
]
