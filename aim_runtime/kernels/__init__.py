"""Kernels to measure, each as the model runs it."""
