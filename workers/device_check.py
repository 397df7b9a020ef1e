"""Probe the GPU: `python -m workers.device_check` exits with 0 where the device computes correctly.

It touches the driver first, as a process that may: `/dev/nvidia-uvm` is made by a setuid program where it is missing,
and in the namespaces of a child no program is setuid. Then it computes as a child does, in a process like a child's.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import subprocess
import sys

from espalier.parent_death import die_with_parent

SIDE = 512
LARGEST = 8
"""Of the factors: every sum of products is a whole number below 2**24, which float32 holds exactly in any order."""


def check(device: str) -> dict[str, object]:
    """Multiply on the device, compare with the CPU's result, and return name and memory of a GPU as a message.

    Raises what torch raises, and ArithmeticError where an answer is wrong.
    """
    import torch  # here, because the process that touches the driver does without

    numbers = torch.Generator().manual_seed(0)
    left, right = torch.randint(-LARGEST, LARGEST + 1, (2, SIDE, SIDE), generator=numbers).float()
    product = (left.to(device) @ right.to(device)).cpu()
    wrong = int((product != left @ right).sum())
    if wrong:
        raise ArithmeticError(f"the device computes {wrong} of {SIDE**2} sums wrong")
    if device == "cpu":
        return {}
    facts = torch.cuda.get_device_properties(device)
    return {"kind": "device", "name": facts.name, "memory_bytes": facts.total_memory}


def main(arguments: list[str]) -> int:
    """Touch the driver, then check every GPU in a process without a network; print the facts of the smallest."""
    if "--inside" in arguments:
        import torch

        each = [check(f"cuda:{number}") for number in range(max(1, torch.cuda.device_count()))]
        smallest = min(each, key=lambda facts: int(str(facts["memory_bytes"])))
        sys.stdout.write(json.dumps(smallest) + "\n")
        return 0
    with contextlib.suppress(OSError):
        ctypes.CDLL("libcuda.so.1").cuInit(0)
    inside = [sys.executable, "-P", "-m", "workers.device_check", "--inside"]
    return subprocess.run(die_with_parent(inside, offline=True), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
