"""The one arithmetic of memory: plans, routing, refusals and limits ask it; no tensors."""
