"""Registries that call."""
