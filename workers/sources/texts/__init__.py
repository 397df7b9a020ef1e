"""Kinds of text; a new one is one file."""
