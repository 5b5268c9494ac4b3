"""Count: a whole number of FLOPs, bytes, elements or tokens."""

from typing import Any, TypeAlias

Count: TypeAlias = Any
"""An int, an array of ints, or a sympy expression where a graph is built from symbols
(aim_cost.sweeps.symbols)."""
