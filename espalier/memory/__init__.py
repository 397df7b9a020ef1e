"""Memory of a job, by part and by phase: for plans, worker classes, refusals and the job itself."""

from espalier.memory.constants import Device
from espalier.memory.decision import Decision, decide, usable_bytes
from espalier.memory.estimate import MemoryEstimate, estimate, itemsize_of, stored_itemsize
from espalier.memory.needs import Need
from espalier.memory.shapes import BlockShape, MapShape, ModelShape

__all__ = [
    "BlockShape",
    "Decision",
    "Device",
    "MapShape",
    "MemoryEstimate",
    "ModelShape",
    "Need",
    "decide",
    "estimate",
    "itemsize_of",
    "stored_itemsize",
    "usable_bytes",
]
