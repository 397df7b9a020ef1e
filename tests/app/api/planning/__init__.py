"""What is known before a job, and what makes several: plans, presets, sweeps, uploads."""
