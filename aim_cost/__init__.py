"""Analytical cost of multimodal LLM inference under visual-token reduction."""
