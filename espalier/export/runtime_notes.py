"""Notes on the gain of a result on each runtime, with the source of the claim."""

from __future__ import annotations

from espalier.evaluate.latency import macs_per_token
from espalier.session import Session

_SMALLER = "Fewer parameters and fewer products: smaller and faster on every runtime that loads the model. "
_TIMED = "The latencies above were measured here."
_COUNTED = "The multiply-adds above were counted from the shapes; nothing was timed."
_FEWER_EXPERTS = (
    "Fewer experts: a smaller file and less memory on every runtime that loads the model. A single token is no faster, "
    "it still goes to as many experts: the multiply-adds above were counted from the shapes."
)
_TWO_OF_FOUR = (
    "2:4 zeros: PyTorch's semi-structured tensors gain at large batches and long prompts on NVIDIA GPUs from Ampere "
    "on, not in single-token decoding (pytorch/ao issue 1460); vLLM removed its 2:4 kernels (pull request 36799)."
)
_UNSTRUCTURED = (
    "Unstructured zeros: stock runtimes run them as dense, same size in memory and same speed. MACKO's sparse products "
    "report gains from 50 % on consumer NVIDIA GPUs (arXiv 2511.13061). The packed format makes the file smaller."
)
_PATTERNED = (
    "Zeros in a pattern ({pattern}): stock runtimes run them as dense, same size in memory and same speed. Kernels "
    "that skip them have to be brought along; the packed format makes the file smaller."
)
_NOTHING = "No zeros and no fewer parameters: no runtime gains."


def runtime_notes(session: Session, *, achieved: float) -> list[str]:
    """Return lines about the runtimes that profit from a result, and those that do not."""
    lines = _of_parts(session)
    if achieved > 0:
        pattern = "unstructured" if session.step is None else session.step.pattern.label()
        known = {"2:4": _TWO_OF_FOUR, "unstructured": _UNSTRUCTURED}
        lines.append(known.get(pattern.partition("/")[0], _PATTERNED.format(pattern=pattern)))
    return lines or [_NOTHING]


def _of_parts(session: Session) -> list[str]:
    """Return the notes on removed parts; nothing where everything was kept."""
    dense, left = session.source_streamed, session.streamed
    if sum(left.parameters.values()) >= sum(dense.parameters.values()):
        return []
    if macs_per_token(left) >= 0.999 * macs_per_token(dense):
        return [_FEWER_EXPERTS]
    return [_SMALLER + (_TIMED if session.results.latency else _COUNTED)]
