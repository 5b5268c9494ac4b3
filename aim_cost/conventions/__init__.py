"""How FLOPs are counted, one module for each op graph."""
