"""Declarations of families of models."""
