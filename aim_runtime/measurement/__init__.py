"""Measuring prefills: clock, FLOPs, memory, environment."""
