"""Attaching a schedule to a model of transformers."""
