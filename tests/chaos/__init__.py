"""Installations killed on purpose, again and again: `make chaos`."""
