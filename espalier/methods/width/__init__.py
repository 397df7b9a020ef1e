"""Criteria of neurons and of groups of heads."""
