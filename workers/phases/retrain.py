"""Retrain a few parameters of the whole pruned model on its language-model loss (PERP, arXiv 2312.15230)."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from app.specs.steps import Retrain
from workers.engine.errors import DatasetError, NumericalError, TargetsError
from workers.engine.lora import LORA_A, LORA_B, MaskLora
from workers.engine.numerics import generator
from workers.engine.overlap import overlapping
from workers.engine.train import KEEP_EVERY, DivergedError, Plan, Trainer, held_out_loss
from workers.engine.trainables import Trainable, freeze, norms_and_biases, restore, snapshot, thaw
from workers.phases import merge
from workers.phases.base import Context, PhaseRun
from workers.phases.scoring import score

SAVE_SECONDS: Final = 30.0
"""Work that a killed run loses, give or take a few steps."""
HELD_OUT: Final = 16
"""Windows that only judge, at most one in ten."""
BASE_RATES: Final = {"norms": 2e-2, "biases": 1e-2, "mask_lora": 4e-3}
"""What the search for a learning rate starts from: vectors bear more than adapters."""
FACTORS: Final = (0.1, 0.3, 1.0)
"""What the search multiplies them with; large models ask for less."""
TRIAL_SHARE: Final = 0.05
"""Length of one trial as a share of the training."""


def run(context: Context) -> None:
    """Train, then merge."""
    spec = context.request.spec.retrain
    assert spec is not None
    with context.phase("retraining", total=spec.steps, unit="step") as phase:
        done = phase.finished()
        if done is None:
            with context.streamed.whole(context.weights) as model:
                trained = _Retraining(context, phase, spec, model).finish()
        else:
            context.trained[phase.name] = int(done["trained"])
            context.protocol[phase.name] = done["protocol"]
            context.warnings += [warning for warning in done["warnings"] if warning not in context.warnings]
            trained = context.workspace / context.stored("retraining")["trained"].path
    merge.run(context, trained)


class _Retraining:
    def __init__(self, context: Context, phase: PhaseRun, spec: Retrain, model: nn.Module) -> None:
        self.context, self.phase, self.spec, self.model = context, phase, spec, model
        self.items = equip(context, model, spec)
        self.seen_NT, self.held_out_NT = _split(training_windows(context, spec), seed=spec.seed)
        device, dtype = context.device, context.compute_dtype
        self.autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
        self.saved = time.monotonic()

    def finish(self) -> Path:
        """Train to the end, or to where the loss diverges; keep the start where that was better."""
        start = snapshot(self.items)
        stored = self.context.stored("retraining").get("state")
        if stored is None:
            before, rates = self._judge(), self._rates()
        else:
            data = self.phase.reuse(stored)
            before, rates = data["before"], data["rates"]
        trainer = self._trainer(rates, steps=self.spec.steps)
        if stored is not None:
            trainer.load(load_file(self.context.workspace / stored.path))
        self._train(trainer, {"before": before, "rates": rates})
        after = self._judge()
        self.phase.metric("validation_loss", trainer.step, after)
        if not after < before:
            restore(self.items, start)
            self.context.warn(
                "retraining_did_not_help",
                f"Retraining took the held-out loss from {before:.4f} to {after:.4f}; the weights stay as they were.",
            )
        if self.context.request.spec.evaluate.after_each_phase:
            self.phase.perplexity = score(self.context, self.model)
        values = {f"value:{item.name}": item.parameter.detach().cpu().contiguous() for item in self.items}
        path = self._save("trained", "trained", values, {})
        trained = sum(item.count for item in self.items)
        self.context.trained[self.phase.name] = trained
        told = {"protocol": self.context.protocol[self.phase.name], "warnings": self.context.warnings}
        self.phase.finish({"trained": trained, **told})
        return path

    def _train(self, trainer: Trainer, data: dict[str, Any]) -> None:
        try:
            while trainer.step < self.spec.steps:
                point = trainer.advance()
                self.phase.metric("training_loss", point.step, point.loss)
                self.phase.metric("learning_rate", point.step, point.rate)
                self.phase.progress(trainer.step)
                if trainer.step % KEEP_EVERY == 0 and time.monotonic() - self.saved > SAVE_SECONDS:
                    self._save("state", f"state-{trainer.step:08d}", trainer.state(), data)
        except DivergedError as error:
            if error.step == 0:
                raise NumericalError(
                    "the loss of the pruned model is not finite", hint="Use compute_dtype float32 or a lower sparsity."
                ) from None
            self.context.warn(
                "retraining_diverged",
                f"The loss was not finite at step {error.step}; training ended with the state of step {trainer.step}. "
                "Use a lower learning rate.",
            )

    def _save(self, name: str, stem: str, tensors: dict[str, torch.Tensor], data: dict[str, Any]) -> Path:
        """Write a checkpoint; every one has a file of its own, for the supervisor reads it when it comes to it."""
        path = self.context.checkpoint_path("retraining", stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file(tensors, partial)
        partial.replace(path)
        self.context.checkpoint("retraining", name, path, {**data, "seconds": self.phase.seconds})
        self.saved = time.monotonic()
        return path

    def _trainer(self, rates: Mapping[str, float], *, steps: int) -> Trainer:
        spec = self.spec
        plan = Plan(steps=steps, batch_size=spec.batch_size, accumulate=spec.accumulate, seed=spec.seed, rates=rates)
        return Trainer(self.model, self.items, self.seen_NT, plan, autocast=self.autocast)

    def _judge(self) -> float:
        with self.autocast:
            return held_out_loss(self.model, self.held_out_NT, batch_size=self.spec.batch_size)

    def _rates(self) -> dict[str, float]:
        """The rates asked for, or the base rates times the factor whose short trial ends best on held-out text."""
        wish = self.spec.learning_rate
        if wish != "auto":
            return dict.fromkeys(BASE_RATES, wish)
        start, steps = snapshot(self.items), max(1, round(TRIAL_SHARE * self.spec.steps))
        best = (math.inf, FACTORS[0])
        for factor in FACTORS:
            trial = self._trainer(_scaled(factor), steps=steps)
            try:
                while trial.step < steps:
                    trial.advance()
                loss = self._judge()
            except DivergedError:
                loss = math.inf
            if loss < best[0]:  # never true of NaN
                best = (loss, factor)
            restore(self.items, start)
        return _scaled(best[1])


def _scaled(factor: float) -> dict[str, float]:
    return {kind: factor * rate for kind, rate in BASE_RATES.items()}


def equip(context: Context, model: nn.Module, spec: Retrain) -> list[Trainable]:
    """Freeze a model and make the parameters of a spec trainable: norms, biases, adapters on every pruned matrix."""
    freeze(model)
    named = norms_and_biases(model, spec.trainable)
    items: list[Trainable] = []
    for name, kind, _ in named:
        parameter = thaw(model, name)
        # From the file: the model in memory may be in a coarser compute dtype.
        parameter.data.copy_(context.weights.get(context.streamed.tensors[name]))
        items.append(Trainable(name, kind, parameter))
    if "biases" in spec.trainable and not any(item.kind == "biases" for item in items):
        if spec.trainable == ["biases"]:
            raise TargetsError("the model has no biases", hint="Train `norms` or `mask_lora`.")
        context.warn("no_biases", "The model has no biases; the other parameters are trained.")
    if "mask_lora" in spec.trainable:
        items += _adapt(context, model, spec)
    return items


def _adapt(context: Context, model: nn.Module, spec: Retrain) -> list[Trainable]:
    items: list[Trainable] = []
    pruned = set(context.weights.mask_names)
    for matrix in context.streamed.layout.matrices:
        if matrix.name not in pruned:
            continue
        adapter = MaskLora(
            model.get_submodule(matrix.name),
            context.mask(matrix.name),
            transposed=matrix.transposed,
            rank=spec.rank,
            alpha=spec.alpha,
            generator=generator(spec.seed, "mask_lora", matrix.name),
        )
        model.set_submodule(matrix.name, adapter)
        items.append(Trainable(f"{matrix.name}.{LORA_A}", "mask_lora", adapter.a_RI))
        items.append(Trainable(f"{matrix.name}.{LORA_B}", "mask_lora", adapter.b_OR))
    return items


def training_windows(context: Context, spec: Retrain) -> torch.Tensor:
    """The whole stream of the training text in windows (N, T), without those that evaluation reads."""
    text = context.text(spec.dataset or context.request.spec.calibration.dataset)
    windows_NT = text.evaluation(length=context.length_of(spec), max_windows=None)
    clean_N = torch.ones(len(windows_NT), dtype=torch.bool)
    for item in context.request.spec.evaluate.perplexity:
        clean_N &= ~overlapping(windows_NT, context.evaluation_windows(item))
    left_out = len(clean_N) - int(clean_N.sum())
    if left_out:
        context.warn(
            "evaluation_windows_excluded",
            f"{left_out} of {len(clean_N)} training windows share text with evaluation and are left out.",
        )
    windows_NT = windows_NT[clean_N]
    if len(windows_NT) < 2:
        raise DatasetError(
            f"{text.name} leaves {len(windows_NT)} windows to train on", hint="Give more text or shorter windows."
        )
    context.protocol["retraining"] = {
        "dataset": (spec.dataset or context.request.spec.calibration.dataset).model_dump(mode="json"),
        "text_sha256": text.sha256,
        "windows": len(windows_NT),
        "sequence_length": windows_NT.shape[1],
        "tokens_read": spec.steps * spec.batch_size * spec.accumulate * windows_NT.shape[1],
    }
    return windows_NT


def _split(windows_NT: torch.Tensor, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    held_out = max(1, min(HELD_OUT, len(windows_NT) // 10))
    order = torch.randperm(len(windows_NT), generator=generator(seed, "held-out"))
    return windows_NT[order[held_out:]], windows_NT[order[:held_out]]
