"""Shared parts of family declarations: base class, positions, attention, mixtures of experts."""
