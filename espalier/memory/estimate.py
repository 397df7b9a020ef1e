"""Estimate the memory of a job by part and by phase: one arithmetic for plans, worker classes, refusals and the job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from espalier.memory import pruning, training
from espalier.memory.constants import FLOAT_BYTES, LIBRARIES_BYTES, OPTIMIZED_BYTES, Device
from espalier.memory.needs import Need
from espalier.memory.scoring import logits_bytes
from espalier.memory.shapes import ModelShape
from espalier.memory.text import tokenising_bytes
from espalier.memory.windows import SNAPSHOT_BYTES, STREAMS, FitBatch, window_bytes, windows_of
from espalier.recipe.phases import PHASES
from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps.objective import Target
from espalier.recipe.steps.reconstruct import BlockWindow, Reconstruct
from espalier.recipe.steps.structure import DepthFields

WITHOUT_MODEL: Final = frozenset({"resolving", "fetching", "exporting", "uploading", "publishing"})
"""Phases that move files: they hold no part of a model worth counting."""


def itemsize_of(compute_dtype: str, *, device: Device) -> int:
    """Return the bytes of a number in the compute dtype; `auto` is bfloat16 on a GPU, float32 elsewhere."""
    return 2 if compute_dtype == "bfloat16" or (compute_dtype == "auto" and device == "cuda") else FLOAT_BYTES


def stored_itemsize(spec: CompressionSpec, dtype: str) -> int:
    """Return the bytes of a number as it is written, for a model whose files hold `dtype`."""
    return FLOAT_BYTES if (spec.output.dtype or dtype) == "float32" else 2


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that the parts of a job take, computed from shapes."""

    process: int
    """Of the libraries, before any weight is read."""
    text: int
    """Of the largest text while it is tokenised, before any block is loaded."""
    outer: int
    """Embeddings and head in the compute dtype, while a walk starts or ends."""
    block: int
    """The largest block that is pruned: its weights, its statistics, and a batch or the work on one matrix."""
    samples: int
    """Of the inputs that its errors are measured on, where a CPU computes; a GPU's are counted with its block."""
    hidden_states: int
    """Of all calibration windows between two blocks."""
    model: int
    """The whole model in the compute dtype."""
    scoring: int = 0
    """Logits of a batch while a perplexity is measured."""
    overlapping: int = 0
    """On the host, of the blocks before and behind the one at hand: being written, and for a GPU read ahead."""
    window: tuple[int, int] = (0, 0)
    """On the device and on the host, while a window is fitted, without the hidden states that it reads."""
    streams: int = 1
    """Copies of the hidden states of all windows held at once, in the phase that holds most."""
    training: int = 0
    """Resident memory of a retraining, on the device where it computes."""
    training_batches: tuple[tuple[int, int], ...] = ()
    """(windows, bytes) of a batch of a retraining, at least: as the recipe has it, and halved again and again."""
    checkpoint: int = 0
    """On the host beside a GPU, while a checkpoint of a retraining is written."""

    @property
    def walk(self) -> int:
        """Peak of a pass through the blocks one by one, where they are computed."""
        return max(self.outer, self.block)

    @property
    def scored(self) -> int:
        """Memory of measuring a perplexity with the whole model."""
        return self.model + self.scoring

    @property
    def scored_by_blocks(self) -> int:
        """Memory of measuring a perplexity with one block at a time: logits come last, beside the head."""
        return max(self.block, self.outer + self.scoring)

    @property
    def training_batch(self) -> int:
        """Memory of a batch of a retraining as the recipe has it."""
        return self.training_batches[0][1] if self.training_batches else 0

    def min_on_host(self, device: Device) -> int:
        """Return the host memory of one block at a time."""
        return self.process + (max(self.outer, self.block + self.samples) if device == "cpu" else self.outer)

    def required_on_host(self, spec: CompressionSpec, *, device: Device, batch: int | None = None) -> Iterator[Need]:
        """Yield the least host memory of a spec; neither spilling nor scoring by blocks lowers it.

        `batch`: bytes of a batch of the retraining, where it is not that of the recipe.
        """
        cpu, minimum = device == "cpu", self.min_on_host(device)
        yield Need(self.process + self.text, "tokenising the text", "/spec/calibration/dataset")
        yield Need(minimum, "one block", "/source")
        if spec.retrain is not None:
            batch = self.training_batch if batch is None else batch
            more = self.training + batch if cpu else self.outer + self.checkpoint
            yield Need(self.process + more, "retraining, which holds the whole model", "/spec/retrain")
        if spec.reconstruct is not None and spec.reconstruct.window != "auto":  # `auto` takes a window that fits
            more = self.window[1] + (self.window[0] if cpu else 0)
            yield Need(self.process + more, "fitting a window", "/spec/reconstruct/window")
        for need in self.required_whole(spec):
            more = minimum if need.pointer == "/spec/prune" else self.process
            yield need._replace(bytes=more + need.bytes)

    def required_on_device(self, spec: CompressionSpec, *, batch: int | None = None) -> Iterator[Need]:
        """Yield the least GPU memory of a spec; scoring by blocks does not lower it. `batch`: as on the host."""
        yield Need(self.walk, "one block", "/source")
        if spec.retrain is not None:
            batch = self.training_batch if batch is None else batch
            yield Need(self.training + batch, "retraining, which holds the whole model", "/spec/retrain")
        if spec.reconstruct is not None and spec.reconstruct.window != "auto":
            yield Need(self.window[0], "fitting a window", "/spec/reconstruct/window")
        yield from self.required_whole(spec)

    def required_whole(self, spec: CompressionSpec) -> Iterator[Need]:
        """Yield what is asked for that nothing but a whole model answers; latency is left out where there is none."""
        if _measures_losses_without_blocks(spec):
            yield Need(self.model, "removing whole parts by this method, which holds the whole model", "/spec/prune")
        if spec.evaluate.divergence:
            what = "divergence from the dense model, which is held beside the result"
            yield Need(self.scored + self.model, what, "/spec/evaluate/divergence")
        if spec.evaluate.tasks:
            yield Need(self.scored, "scoring tasks, which holds the whole model", "/spec/evaluate/tasks")
        if isinstance(spec.objective, Target) and spec.objective.unit == "seconds_per_token":
            yield Need(self.scored, "timing the whole model", "/spec/objective/seconds_per_token")

    def peak(
        self,
        phase: str,
        spec: CompressionSpec,
        *,
        device: Device,
        by_blocks: bool = False,
        micro_batch: int | None = None,
        states_on_device: bool = False,
    ) -> int:
        """Return the most that a phase holds at once where it computes; on a CPU with its libraries and the text.

        `by_blocks`, `micro_batch`, `states_on_device`: as the decision about the job says.
        """
        if phase in WITHOUT_MODEL:
            return 0
        on_device, on_host = self._held(phase, spec, by_blocks, self._batch(micro_batch))
        if device == "cuda":
            return on_device + states_on_device * max(0, on_host - self.samples)
        walks = phase in {"pruning", "reconstructing", "merging"}
        return self.process + max(self.text, on_device + on_host + self.overlapping * walks)

    def largest_peak(
        self, spec: CompressionSpec, *, device: Device, by_blocks: bool = False, micro_batch: int | None = None
    ) -> int:
        """Return the most that any phase of a spec holds at once where it computes.

        Latency does without the dense model where memory does not hold it beside the result.
        """
        spec = spec.model_copy(update={"evaluate": spec.evaluate.model_copy(update={"latency": False})})
        planned = [phase.name for phase in PHASES if phase.field is None or getattr(spec, phase.field)]
        return max(
            self.peak(phase, spec, device=device, by_blocks=by_blocks, micro_batch=micro_batch) for phase in planned
        )

    def _batch(self, micro_batch: int | None) -> int:
        return dict(self.training_batches).get(micro_batch or 0, self.training_batch)

    def _held(self, phase: str, spec: CompressionSpec, by_blocks: bool, batch: int) -> tuple[int, int]:
        """Return the bytes on the device and beside it; a phase that nothing is said of walks through the blocks."""
        after_each = spec.evaluate.after_each_phase
        scored = self.scored_by_blocks if by_blocks else self.scored
        if phase == "baseline":
            return scored, 0
        if phase == "evaluating":  # latency and divergence hold the dense model beside the result
            beside = spec.evaluate.latency or spec.evaluate.divergence
            return scored + self.model * (beside and not by_blocks), 0
        if phase == "retraining":
            return self.training + max(batch, self.scoring * after_each), 0
        device, host = self.walk, self.samples + self.hidden_states
        if phase == "reconstructing":  # blocks are pruned on the way, or their errors measured again
            device = max(device, self.window[0], scored * after_each)
            host = self.samples + self.window[1] + self.streams * self.hidden_states
        if phase == "pruning":  # recovery is preceded by a measurement
            recovers = spec.reconstruct is not None or spec.retrain is not None
            device = max(device + self.model * _measures_losses_without_blocks(spec), scored * recovers)
        return device, host


def _measures_losses_without_blocks(spec: CompressionSpec) -> bool:
    """Tell whether a step that removes blocks tries the whole model without them."""
    return any(isinstance(step, DepthFields) and step.whole_model for step in spec.structure)


def estimate(
    shape: ModelShape,
    spec: CompressionSpec,
    *,
    device: Device,
    itemsize: int,
    stored: int,
    text_bytes: int,
    process: int = LIBRARIES_BYTES,
    ranks: int = 1,
) -> MemoryEstimate:
    """Estimate the parts of a job's memory.

    `itemsize`: of the compute dtype; `stored`: of the dtype that is written; `text_bytes`: of the largest text;
    `process`: what the libraries take; `ranks`: that compute the job, and share the windows, and in a retraining the
    model: the parts are of one of them.
    """
    length = spec.calibration.sequence_length or shape.default_length
    tokens = spec.calibration.samples * length
    gram = any(step.reads == "gram" for step in spec.masking)
    scored = [item.sequence_length or shape.default_length for item in spec.evaluate.perplexity]
    held = tokens if spec.reconstruct else pruning.own_windows(spec.calibration.samples, ranks=ranks) * length
    hidden_states = held * shape.width * itemsize
    retrain = spec.retrain
    blocks, samples = _blocks(
        shape, gram=gram, tokens=tokens, length=length, itemsize=itemsize, stored=stored, on=device, ranks=ranks
    )
    return MemoryEstimate(
        process=process,
        text=tokenising_bytes(text_bytes),
        outer=shape.outer * itemsize,
        block=blocks,
        samples=samples,
        overlapping=max(
            (pruning.overlapping_bytes(block, stored=stored, device=device) for block in shape.kinds), default=0
        ),
        hidden_states=hidden_states,
        model=shape.parameters * itemsize,
        scoring=max((logits_bytes(each, shape.vocabulary, itemsize=itemsize) for each in scored), default=0),
        window=_window(shape, spec.reconstruct, tokens, length, itemsize) if spec.reconstruct else (0, 0),
        streams=STREAMS if spec.reconstruct else 1,
        training=training.resident_bytes(retrain, shape, itemsize=itemsize, ranks=ranks) if retrain else 0,
        training_batches=training.batches(retrain, shape, device=device, itemsize=itemsize, ranks=ranks)
        if retrain
        else (),
        checkpoint=training.checkpoint_bytes(retrain, shape, ranks=ranks) if retrain else 0,
    )


def _blocks(
    shape: ModelShape, *, gram: bool, tokens: int, length: int, itemsize: int, stored: int, on: Device, ranks: int
) -> tuple[int, int]:
    """Return what the largest block takes, and the inputs that errors are measured on where they are counted apart."""
    sizes, samples = [0], [0]
    for block in shape.kinds:
        size = pruning.block_bytes(
            block,
            gram=gram,
            tokens=tokens,
            length=length,
            itemsize=itemsize,
            stored=stored,
            device=on,
            ranks=ranks,
        )
        sample = pruning.sample_bytes(block, gram=gram, tokens=tokens, itemsize=itemsize)
        sizes.append(size + sample * (on == "cuda"))
        samples.append(sample * (on == "cpu"))
    return max(sizes), max(samples)


def _window(shape: ModelShape, reconstruct: Reconstruct, tokens: int, length: int, itemsize: int) -> tuple[int, int]:
    """Return the memory of the largest window on the device and on the host; of `auto`, the largest that may be chosen.

    Of several blocks at once, the last one's activations are kept and the others are recomputed.
    """
    kind = reconstruct.window
    batch = FitBatch(tokens=reconstruct.batch_size * length, itemsize=itemsize, hidden_states=0, held_tokens=tokens)
    cut = kind if kind in {"submodule", "matrix"} else "block"
    count = kind.blocks if isinstance(kind, BlockWindow) else shape.num_blocks if kind == "all" else 1
    others = (min(count, shape.num_blocks) - 1) * max((block.weights for block in shape.kinds), default=0)
    device, host = max(
        (window_bytes(window, block, batch) for block in shape.kinds for window in windows_of(block, cut)),
        key=sum,
        default=(0, 0),
    )
    return device + OPTIMIZED_BYTES * others, host + SNAPSHOT_BYTES * others
