"""Campaigns: many measurements within a budget of minutes, and what they say of predictions."""
