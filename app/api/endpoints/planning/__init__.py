"""Preparation of jobs: methods, presets, uploads, plans; and sweeps, which are many jobs."""
