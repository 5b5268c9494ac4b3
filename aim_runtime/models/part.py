"""Part: a module of a model whose own parts are read by name."""

from typing import Any, TypeAlias

Part: TypeAlias = Any
"""A decoder, a layer or a vision tower, of one of several classes that name their parts alike.

torch types every part of a Module as ``Tensor | Module``, which says nothing; those that a patch
relies on are checked by name when a model is patched (``aim_runtime.seams``).
"""
