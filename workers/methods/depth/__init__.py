"""Criteria of whole blocks."""
