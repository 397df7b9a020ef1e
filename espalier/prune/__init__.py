"""Pruning block by block: calibration, scores, masks, solvers."""
