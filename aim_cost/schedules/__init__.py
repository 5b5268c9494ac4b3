"""Schedules of merging, selecting and pruning, and the token counts that they give."""
