"""Predictions against measurements, and against a slow reference."""
