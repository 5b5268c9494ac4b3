"""Inputs: the arguments of a model's forward, by name."""

from typing import Any, TypeAlias

Inputs: TypeAlias = dict[str, Any]
"""What a processor writes and a model takes: tensors by the names that transformers gives them."""
