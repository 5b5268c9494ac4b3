"""Campaigns: many measurements within a budget of minutes, and the errors of predictions."""
