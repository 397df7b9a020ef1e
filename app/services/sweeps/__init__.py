"""Sweeps: one job per point of a grid."""
