"""Output error of every pruned matrix after a refit, beside that of its mask alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch

from espalier.memory.pruning import ERROR_TOKENS
from espalier.messages import Layer
from espalier.model import masks
from espalier.model.layout import Block, Matrix
from espalier.model.numerics import to_device
from espalier.session import Session
from espalier.stream.capture import Capture, capturing
from espalier.stream.hidden_states import HiddenStates
from espalier.stream.statistics import OutputErrors


def remeasured_rows(
    session: Session,
    stream: HiddenStates,
    states: torch.Tensor,
    span: Sequence[Block],
    tensors: Mapping[str, torch.Tensor],
) -> list[Layer]:
    """Measure both errors of a span's pruned matrices again, on the dense blocks' outputs for `states`.

    `tensors` are the refitted ones by name; `states` enter the span.
    """
    rows: list[Layer] = []
    states = states[: math.ceil(ERROR_TOKENS / states.shape[1])]
    for block in span:
        matrices = [matrix for matrix in block.matrices if matrix.name in session.results.layers]
        with (
            session.streamed.block(block.index, session.dense) as dense,
            capturing(dense, matrices, sample_tokens=ERROR_TOKENS) as capture,
        ):
            states = stream.forward(stream.run(dense, block.index), states, shared=False)  # every rank captures all
        rows += _rows(session, matrices, capture, tensors)
    return rows


def _rows(
    session: Session, matrices: Sequence[Matrix], capture: Capture, tensors: Mapping[str, torch.Tensor]
) -> Iterator[Layer]:
    device = session.device
    for matrix in matrices:
        dense_OI = matrix.view(session.dense.get(matrix.tensor).to(session.weights.dtype(matrix.tensor)))
        refitted = tensors.get(matrix.tensor)
        fitted_OI = matrix.view(session.weights.get(matrix.tensor) if refitted is None else refitted)
        errors = OutputErrors(to_device(dense_OI, device, torch.float32), capture.of(matrix.name).sample(), None)
        before = errors.relative(to_device(masks.apply(dense_OI, session.mask(matrix.name)), device, torch.float32))
        after = errors.relative(to_device(fitted_OI, device, torch.float32))
        before, after = torch.stack([before, after]).tolist()
        yield session.results.layers[matrix.name].model_copy(update={"error_before": before, "error_after": after})
