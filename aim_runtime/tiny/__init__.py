"""A tiny LLaVA-OneVision, trained here on videos of real handwritten digits.

It answers questions about them, so that accuracy under a schedule can be measured anywhere.
"""
