"""Probe the GPU: `python -m workers.device_check` exits with 0 where the device computes correctly."""

from __future__ import annotations

import torch  # noqa: TID253 - a process of its own, of which nothing is left when it has answered

SIDE = 512


def check(device: str) -> None:
    """Multiply and compare on the device; raises what torch raises, and ArithmeticError where an answer is wrong."""
    ones = torch.ones(SIDE, SIDE, device=device)
    wrong = int((ones @ ones != SIDE).sum())  # whole numbers, which every precision of a product holds exactly
    if wrong:
        raise ArithmeticError(f"the device computes {wrong} of {SIDE**2} sums wrong")


if __name__ == "__main__":
    check("cuda")
