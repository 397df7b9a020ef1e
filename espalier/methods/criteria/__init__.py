"""Criteria: they score weights; the lowest scores are pruned."""
