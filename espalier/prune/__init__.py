"""The first walk: calibration, scores, masks, solvers, block by block."""
