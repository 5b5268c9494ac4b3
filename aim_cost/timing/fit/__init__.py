"""Fitting and evaluating calibrations from kernel tables."""
