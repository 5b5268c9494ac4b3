"""A case (model, workload, device) and its estimate: what pricing one schedule gives."""

from aim_cost.case.case import Case, Estimate, estimate

__all__ = ["Case", "Estimate", "estimate"]
