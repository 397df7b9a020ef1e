"""The phases of a job in order, and the classes of its errors."""

from __future__ import annotations

from typing import Final, Literal, get_args

Phase = Literal[
    "resolving",
    "fetching",
    "baseline",
    "calibrating",
    "pruning",
    "reconstructing",
    "retraining",
    "merging",
    "evaluating",
    "exporting",
    "uploading",
    "publishing",
]


ErrorClass = Literal[
    "invalid_spec",
    "unsupported_architecture",
    "source_not_found",
    "source_unreachable",  # the other side does not answer: it is asked again
    "source_gated",
    "source_unsafe",
    "dataset_error",
    "gpu_oom",
    "device_lost",  # the GPU, or the way to it, is broken; another worker may do
    "host_oom",
    "disk_full",
    "numerical",
    "collapsed",
    "timeout",
    "worker_lost",
    "storage",
    "publish_failed",
    "internal",
]


PHASES: Final[tuple[Phase, ...]] = get_args(Phase)
