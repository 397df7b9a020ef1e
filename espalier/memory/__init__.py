"""How much memory a job takes, by part and by phase: plans, worker classes, refusals and the job itself ask here."""

from espalier.memory.estimate import Device, MemoryEstimate, estimate, itemsize_of
from espalier.memory.shapes import BlockShape, MapShape, ModelShape

__all__ = ["BlockShape", "Device", "MapShape", "MemoryEstimate", "ModelShape", "estimate", "itemsize_of"]
