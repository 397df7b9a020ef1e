"""Removing whole parts: blocks, neurons, groups of heads, experts; the result is a smaller stock model."""
