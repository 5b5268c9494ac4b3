"""Case and Estimate: a prefill on a device, and the price of one schedule on it."""

from aim_cost.case.case import Case, Estimate, estimate

__all__ = ["Case", "Estimate", "estimate"]
