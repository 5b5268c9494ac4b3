"""Prompts: video frames, pixels, placeholders and positions."""
