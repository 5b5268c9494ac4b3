"""Merging, scoring and selecting tokens, as tensor functions."""
