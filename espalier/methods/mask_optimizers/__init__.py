"""Mask optimizers: they improve a mask while the weights stay."""
