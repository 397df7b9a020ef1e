"""The state of one job while its phases run: paths, device, the weights as they stand, texts, and ways to report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch

from espalier.distributed.group import RankGroup
from espalier.messages import ComputeRequest
from espalier.model import numerics
from espalier.model.lm_eval_tasks import Tasks
from espalier.model.streamed import StreamedModel
from espalier.model.weights import Weights, main_dtype, output_cast
from espalier.recipe.base import fingerprint
from espalier.recipe.phases import Phase
from espalier.recipe.steps.dataset import Calibration, Dataset
from espalier.recipe.steps.evaluate import Perplexity
from espalier.recipe.steps.prune import PruneStep
from espalier.recipe.steps.retrain import Retrain
from espalier.session.reporter import Listener, Repetition, Reporter
from espalier.session.results import Results
from espalier.text.corpus import CROPPED_FROM, Corpus, Text


class Session:
    """One attempt of a job: what every phase works with, and changes."""

    def __init__(self, request: ComputeRequest, listener: Listener, group: RankGroup | None = None) -> None:
        """`group`: the ranks that compute the job together; None: this process alone."""
        self.request = request
        self.group = group or RankGroup.alone()
        self.workspace = Path(request.workspace)
        self.artifact_dir = Path(request.artifact_dir)
        self.source_dir = Path(request.model_dir)
        self.model_dir = self.source_dir
        """The folder of the config and the dense weights: another one once whole parts are removed."""
        self.device = numerics.pick_device(request.device)
        self.source = self.dense = Weights(self.source_dir)
        """The source as it is; and what phases take for dense, which is smaller once whole parts are gone."""
        self.compute_dtype = numerics.pick_compute_dtype(
            request.spec.compute_dtype,
            self.device,
            float16=request.spec.retrain is None and main_dtype(self.source) == torch.float16,
        )
        self.weights = Weights(self.source_dir, dtype=output_cast(self.dense, request.spec.output.dtype))
        """The result so far, in the dtype that the artifact will have."""
        self.before_pruning = self.weights
        """The weights as the newest prune step found them."""
        self.kept: tuple[int, ...] | None = None
        """The source's blocks that are left, in order; None before whole parts are removed."""
        self.corpus = Corpus(self.source_dir)
        self.tasks: Tasks | None = None
        """The lm-eval tasks asked for."""

        self.by_blocks = False
        """Whether perplexity is measured with one block in memory at a time."""
        self.overlaps = True
        """Whether memory holds one block more: the next is read, the last is written, while one is computed."""
        self.micro_batch: int | None = None
        """Windows of a retraining that go through the model at once; None: as many as its batch has."""
        self.states_in: Path | torch.device = numerics.CPU
        """Where hidden states lie: in the memory of the device while they fit there, in the host's, or in a folder."""

        self.results = Results()
        checkpoints = {(item.phase, item.name): item for item in request.checkpoints}
        self.reporter = Reporter(
            listener,
            self.results,
            self.workspace,
            checkpoints,
            self.device,
            writes=self.group.leads,
        )

    @property
    def in_pieces(self) -> bool:
        """Whether reconstruction adds up every step in pieces, as any number of ranks does."""
        return self.request.in_pieces or self.group.size > 1

    def smaller_batch(self, phase: Phase, windows: int) -> int:
        """Return how many windows of a batch go through at once, halved for every time memory ran out in a phase."""
        for _ in range(self.request.ran_out.get(phase, 0)):
            windows = -(-windows // 2)
        return windows

    @property
    def repetition(self) -> Repetition:
        """The repetition whose phases run."""
        return self.reporter.repetition

    @repetition.setter
    def repetition(self, repetition: Repetition) -> None:
        self.reporter.repetition = repetition

    @property
    def step(self) -> PruneStep | None:
        """The prune step of this repetition; None for a model that is already sparse."""
        if not self.request.spec.masking:
            return None
        (step,) = self.request.spec.masking
        return (
            step if self.repetition.sparsity is None else step.model_copy(update={"sparsity": self.repetition.sparsity})
        )

    @property
    def retrain(self) -> Retrain | None:
        """The retraining of this repetition."""
        return self.repetition.retrain or self.request.spec.retrain

    @property
    def interleaves(self) -> bool:
        """Whether every block is pruned just before it is fitted."""
        reconstruct = self.request.spec.reconstruct
        return reconstruct is not None and reconstruct.interleave

    def adopt(self, folder: Path, streamed: StreamedModel, *, kept: Sequence[int]) -> None:
        """Go on with a smaller model, made by removing parts; `kept` are the blocks that are left of the one so far."""
        self.kept = tuple(self.kept[index] if self.kept else index for index in kept)
        self.source_streamed  # noqa: B018 - opened while it still is the model at hand
        self.model_dir, self.streamed = folder, streamed
        self.dense, dtype = Weights(folder), self.request.spec.output.dtype
        self.weights = self.before_pruning = Weights(folder, dtype=output_cast(self.dense, dtype))

    @cached_property
    def source_streamed(self) -> StreamedModel:
        """The source as it was before any part of it was removed."""
        return self.streamed

    @cached_property
    def streamed(self) -> StreamedModel:
        """The model with its weights on disk."""
        return StreamedModel(self.model_dir, compute_dtype=self.compute_dtype, device=self.device)

    def text(self, dataset: Dataset, *, enough: int | None = None) -> Text:
        """Read the token stream of a data set; of a long text, no more than holds `enough` tokens (None: all)."""
        spec = dataset.model_dump(mode="json")
        path = self.request.datasets.get(fingerprint(spec))
        return self.corpus.read(spec, path=Path(path) if path else None, enough=enough)

    @property
    def calibration_text(self) -> Text:
        """What the calibration's windows are taken from."""
        of = self.request.spec.calibration
        times = 1 if of.selection == "sequential" else CROPPED_FROM
        return self.text(of.dataset, enough=times * of.samples * self.length_of(of))

    def calibration_windows(self) -> torch.Tensor:
        """Return the calibration's windows of tokens (N, T)."""
        of, length = self.request.spec.calibration, self.length_of(self.request.spec.calibration)
        # The builtin text is short: its crops may overlap, for the default request must work with any model.
        overlapping = of.dataset.kind == "builtin" and of.selection != "sequential"
        return self.calibration_text.windows(
            count=of.samples, length=length, seed=of.seed, selection=of.selection, overlapping=overlapping
        )

    def evaluation_text(self, item: Perplexity) -> Text:
        """Read the text of a measurement."""
        enough = None if item.max_windows is None else item.max_windows * self.length_of(item)
        return self.text(item.dataset, enough=enough)

    def evaluation_windows(self, item: Perplexity) -> torch.Tensor:
        """Return the windows of tokens (N, T) of one measurement."""
        return self.evaluation_text(item).evaluation(length=self.length_of(item), max_windows=item.max_windows)

    def length_of(self, item: Calibration | Perplexity | Retrain) -> int:
        """Return a resolved sequence length; min(2048, the model's maximum) when a request by hand leaves it out."""
        return item.sequence_length or self.streamed.shape.default_length

    def mask(self, name: str) -> torch.Tensor:
        """Return the mask (O, I) of a pruned matrix, True = keep."""
        return self.weights.mask(name, num_inputs=self.streamed.layout.by_name[name].shape[1])
