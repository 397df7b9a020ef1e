"""Patterns: they turn scores into a mask of a given shape."""
