"""Removing whole parts: blocks, neurons, groups of heads, experts; what is left is a stock model, only smaller."""
