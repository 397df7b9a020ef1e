"""Deduplication: equal work is done once."""
