"""Which worker class a job belongs to: the first whose memory holds what the job needs."""

from __future__ import annotations

from app.settings import Settings
from espalier.memory import retraining
from espalier.probe import ModelFacts
from espalier.recipe.spec import CompressionSpec

FLOAT_BYTES = 4
"""Statistics, solvers and trainables are float32 always."""


def worker_class(settings: Settings, spec: CompressionSpec | None, facts: ModelFacts | None) -> str:
    """Return the class of a job; one whose model nobody has seen yet begins in the first."""
    known = settings.classes
    if spec is None or facts is None:
        return known[0][0]
    needed = memory_bytes(spec, facts)
    return next((name for name, memory in known if needed <= memory), known[-1][0])


def memory_bytes(spec: CompressionSpec, facts: ModelFacts) -> int:
    """Estimate the memory that a job needs on its device: blocks pass one by one, only retraining holds all of them."""
    # A block dense and sparse with its scores, its statistics, and its inputs and outputs.
    sizes = [sum((3 * m.num_outputs + m.num_inputs) * m.num_inputs for m in block) for block in facts.blocks]
    tokens = spec.calibration.samples * (spec.calibration.sequence_length or 0)
    streamed = max(sizes, default=0) + 2 * tokens * facts.hidden_size
    embeddings = facts.vocab_size * facts.hidden_size
    training = training_bytes(spec, facts, itemsize=2 if spec.compute_dtype == "bfloat16" else FLOAT_BYTES)
    return max(FLOAT_BYTES * max(streamed, embeddings), training + training // 4)  # a quarter for activations


def training_bytes(spec: CompressionSpec, facts: ModelFacts, *, itemsize: int) -> int:
    """Return what stays in memory while a model is retrained; `itemsize`: of the compute dtype."""
    if spec.retrain is None:
        return 0
    return retraining.memory_bytes(spec.retrain, shapes(facts), itemsize=itemsize)


def shapes(facts: ModelFacts) -> retraining.Shapes:
    """Return what of a model decides the memory of its retraining."""
    return retraining.Shapes(facts.parameters, facts.edges, vocabulary=facts.vocab_size, width=facts.hidden_size)
