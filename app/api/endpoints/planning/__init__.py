"""What comes before a job: methods, presets, uploaded inputs, plans; and sweeps, which are many jobs."""
