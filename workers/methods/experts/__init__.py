"""Criteria of whole experts."""
