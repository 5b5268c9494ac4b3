"""Conventions: ways to count FLOPs, with one module for each op graph."""
