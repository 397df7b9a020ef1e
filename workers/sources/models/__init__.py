"""Kinds of model sources; a new one is one file."""
