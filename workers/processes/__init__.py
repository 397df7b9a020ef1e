"""Child processes, their limits, and the machine that they run on."""
