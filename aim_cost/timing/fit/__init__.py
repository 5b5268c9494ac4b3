"""Fits calibrations to kernel tables, and evaluates them."""
