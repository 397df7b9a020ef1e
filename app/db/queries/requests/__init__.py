"""Statements about what comes before a job: plans, presets, sweeps, uploads, keys of equal calls."""
