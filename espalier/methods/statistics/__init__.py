"""Statistics that calibration gathers: one file each, named by the methods that read them."""
