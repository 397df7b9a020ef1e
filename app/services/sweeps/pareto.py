"""The Pareto front of results: those that no other dominates, as good in both measures and better in one."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pareto_front(costs: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each pair of costs (lower is better) whether no other dominates it; equal pairs do not dominate."""
    on_front = [False] * len(costs)
    best_of_cheaper = math.inf
    order = sorted(range(len(costs)), key=lambda index: costs[index])
    start = 0
    while start < len(order):
        cost = costs[order[start]][0]
        stop = next((at for at in range(start, len(order)) if costs[order[at]][0] != cost), len(order))
        best = costs[order[start]][1]
        for index in order[start:stop]:
            on_front[index] = costs[index][1] == best < best_of_cheaper
        best_of_cheaper = min(best_of_cheaper, best)
        start = stop
    return on_front
