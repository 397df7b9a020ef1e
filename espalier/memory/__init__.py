"""Memory of a job, by part and by phase: for plans, worker classes, refusals and the job itself."""

from espalier.memory.estimate import Device, MemoryEstimate, estimate, itemsize_of
from espalier.memory.shapes import BlockShape, MapShape, ModelShape

__all__ = ["BlockShape", "Device", "MapShape", "MemoryEstimate", "ModelShape", "estimate", "itemsize_of"]
