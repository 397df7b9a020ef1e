"""Retrain a few parameters of the whole pruned model, or all, on text and perhaps a teacher (arXiv 2312.15230)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file

from espalier.checkpoint_names import STATE, TRAINED, RepetitionName
from espalier.errors import NumericalError
from espalier.evaluate import loss_gap
from espalier.evaluate.scoring import score
from espalier.model.numerics import autocast, derived_seed, hint_if_not_finite, is_accelerator
from espalier.model.safetensors_writer import save_tensors
from espalier.recipe.steps.retrain import Retrain
from espalier.retrain import merging, rate_search
from espalier.retrain.allr_warm_start import start_fraction
from espalier.retrain.loading import trained_model
from espalier.retrain.rate_search import BASE_RATES, scaled
from espalier.retrain.teacher import recomputes, teaching
from espalier.retrain.train import Best, DivergedError, Trainer, TrainingPlan, held_out_loss
from espalier.retrain.training_text import split, training_windows
from espalier.session import Session
from espalier.session.reporter import PhaseRun
from espalier.training.losses import Loss
from espalier.training.recompute import recomputing
from espalier.training.save_interval import SaveInterval
from espalier.training.sharding import Sharding
from espalier.training.trainables import count_trained, restore

CHECKS: Final = 20
"""Evaluations of the held-out loss, at most; never more often than every tenth step."""


def run(session: Session) -> None:
    """Train, then merge."""
    spec = session.retrain
    assert spec is not None
    with session.reporter.phase("retraining", total=spec.steps, unit="step") as phase:
        done = phase.finished()
        if done is None:
            trained = _train(session, phase, spec)
        else:
            session.results.trained_parameters[phase.name] = int(done["trained"])
            session.results.protocol[phase.name] = done["protocol"]
            session.results.add_warnings(done["warnings"])
            stored = session.reporter.stored(phase.name, TRAINED)
            assert stored is not None
            trained = session.workspace / stored.path
    session.results.adapter = trained if spec.adapter == "lora" else None
    merging.run(session, trained)


def _train(session: Session, phase: PhaseRun, spec: Retrain) -> Path:
    """Train to the end; when this returns, nothing holds the model any more, and merging has its memory."""
    with _ready(session, phase, spec) as ready:
        return ready.finish()


def search(session: Session) -> float | None:
    """Find the learning rate that all members of a soup share: the factor of the base rates, if one is to be found."""
    spec = session.retrain
    assert spec is not None
    if spec.learning_rate != "auto" or spec.rate_factor is not None:
        return spec.rate_factor
    retraining = session.reporter.phase("retraining", total=spec.steps, unit="step")
    with retraining as phase, _ready(session, phase, spec) as ready:
        return ready.factor()


@contextmanager
def _ready(session: Session, phase: PhaseRun, spec: Retrain) -> Iterator[_Retraining]:
    """Choose the text, which may load models of its own, and only then load the one that is trained."""
    seen_NT, held_out_NT = split(session, training_windows(session, spec))
    seen_NT = loss_gap.training_windows(session, phase, seen_NT)
    with trained_model(session, spec) as sharding, teaching(session, spec, sharding) as loss:
        yield _Retraining(session, phase, spec, sharding, loss, seen_NT=seen_NT, held_out_NT=held_out_NT)


class _Retraining:
    def __init__(
        self,
        session: Session,
        phase: PhaseRun,
        spec: Retrain,
        sharding: Sharding,
        loss: Loss,
        *,
        seen_NT: torch.Tensor,
        held_out_NT: torch.Tensor,
    ) -> None:
        self.session, self.phase, self.spec, self.loss = session, phase, spec, loss
        self.seen_NT, self.held_out_NT = seen_NT, held_out_NT
        self.sharding, self.model, self.items = sharding, sharding.model, sharding.trainables
        # A rank of several holds no block's copies longer than the block.
        self.autocast = autocast(session.device, session.compute_dtype, keeps_copies=session.group.size == 1)
        self.start = start_fraction(session, spec)

    def finish(self) -> Path:
        """Train to the end, or to where it no longer helps; the state with the lowest held-out loss is the result."""
        stored = self.session.reporter.stored(self.phase.name, STATE)
        rates = self._rates()
        trainer = self._trainer(rates, steps=self.spec.steps)
        with self._checkpointing_activations():
            if stored is None:
                best = Best.at_start(self.items, self._judge())
                if math.isfinite(best.loss):  # the pipe carries numbers only
                    self.phase.metric("validation_loss", 0, best.loss)
            else:
                self.phase.reuse(stored)
                best = trainer.load(self.sharding.rows(load_file(self.session.workspace / stored.path)))
            self._train(trainer, best)
        restore(self.items, best.values)
        if best.step == 0:
            self.session.reporter.warn(
                "retraining_did_not_help",
                f"Retraining never took the held-out loss below {best.loss:.4f}; the weights stay as they were.",
            )
        if self.session.request.spec.evaluate.after_each_phase:
            with self.autocast, self.sharding.looking():
                self.phase.perplexity = score(self.session, self.model)
        return self._finished(rates, best, trainer.step)

    def _finished(self, rates: Mapping[str, float], best: Best, steps: int) -> Path:
        values = {f"value:{item.name}": value for item, value in zip(self.items, best.values, strict=True)}
        whole = self.sharding.whole(values)
        path = self.session.reporter.checkpoint_path(self.phase.name, TRAINED)
        sha256 = self.session.group.led(lambda: save_tensors(path, whole))
        self.session.reporter.checkpoint(self.phase.name, TRAINED, path, {"seconds": self.phase.seconds}, sha256=sha256)
        trained = int(self.sharding.sums(count_trained(self.items))[0])
        self.session.results.trained_parameters[self.phase.name] = trained
        used = {item.kind for item in self.items}
        self.session.results.protocol[self.phase.name] |= {
            "learning_rates": {kind: rate for kind, rate in rates.items() if kind in used},
            "steps": steps,
            "tokens_read": steps * self.spec.batch_size * self.spec.accumulate * self.seen_NT.shape[1],
            "kept_step": best.step,
            "validation_loss": best.loss,
            "start": self.start,
        }
        outcome = {
            "protocol": self.session.results.protocol[self.phase.name],
            "warnings": self.session.results.warnings,
        }
        self.phase.finish({"trained": trained, **outcome})
        return path

    def _train(self, trainer: Trainer, best: Best) -> None:
        """Train to the last step, or to early stopping: `patience` checks without a lower held-out loss."""
        every, interval = max(10, -(-self.spec.steps // CHECKS)), SaveInterval()
        try:
            while trainer.step < self.spec.steps:
                point = trainer.advance()
                self.phase.metric("training_loss", point.step, point.loss)
                self.phase.metric("learning_rate", point.step, point.rate)
                if trainer.step % every == 0 or trainer.step == self.spec.steps:
                    self._check(trainer, best)
                if self.spec.patience and best.checks_since >= self.spec.patience:
                    self.phase.metric("stopped_early", trainer.step, best.loss)
                    break
                self.phase.progress(trainer.step)
                self.session.reporter.poll()
                if self.session.group.broadcast_object(interval.is_due()):
                    self._save(interval, trainer, best)
        except DivergedError as error:
            if not math.isfinite(best.loss):
                hint = hint_if_not_finite(self.session.compute_dtype)
                raise NumericalError("the loss of the pruned model is not finite", hint=hint) from None
            self.session.reporter.warn(
                "retraining_diverged",
                f"The loss was not finite at step {error.step}; the result is the state of step {best.step}. "
                "Use a lower learning rate.",
            )

    def _check(self, trainer: Trainer, best: Best) -> None:
        loss = self._judge()
        if math.isfinite(loss):
            self.phase.metric("validation_loss", trainer.step, loss)
        best.update_if_better(self.items, step=trainer.step, loss=loss)

    def _save(self, interval: SaveInterval, trainer: Trainer, best: Best) -> None:
        """Write a state; every one has a file of its own, for the supervisor reads it when it comes to it.

        A state of a GPU is a copy, and is written in a thread. That of a CPU is not, for a copy would be as much again.
        """
        reporter, name, data = self.session.reporter, self.phase.name, {"seconds": self.phase.seconds}
        reporter.flush()
        interval.begin()
        state = self.sharding.whole(trainer.state(best))
        if not reporter.writes:
            return
        path = reporter.checkpoint_path(name, STATE, version=f"{trainer.step:08d}")

        def write() -> str:
            sha256 = save_tensors(path, state)
            interval.end()
            return sha256

        if is_accelerator(self.session.device):
            reporter.checkpoint_later(name, STATE, path, data, write=write)
        else:
            reporter.checkpoint(name, STATE, path, data, sha256=write())

    def _trainer(self, rates: Mapping[str, float], *, steps: int) -> Trainer:
        spec = self.spec
        seed = spec.seed if spec.order_seed is None else spec.order_seed
        if (cycle := self.session.repetition.name.cycle) is not None:
            # No cycle reads the first batches again, and members of one soup differ only in what `vary` names.
            seed = derived_seed(seed, str(RepetitionName(cycle=cycle)))
        plan = TrainingPlan(
            steps=steps,
            batch_size=spec.batch_size,
            micro_batch=self.session.micro_batch,
            accumulate=spec.accumulate,
            seed=seed,
            rates=rates,
            schedule=spec.schedule,
            start=self.start,
            weight_decay=spec.weight_decay,
        )
        return Trainer(
            self.model, self.items, self.seen_NT, plan, autocast=self.autocast, loss=self.loss, sharding=self.sharding
        )

    @contextmanager
    def _checkpointing_activations(self) -> Iterator[None]:
        with recomputing(self.model) if recomputes(self.session, self.spec) else nullcontext():
            yield

    def _judge(self) -> float:
        with self.autocast:
            size = self.session.micro_batch or self.spec.batch_size
            return held_out_loss(self.model, self.held_out_NT, batch_size=size, sharding=self.sharding)

    def _rates(self) -> dict[str, float]:
        """The rate asked for, or what a search finds or has found."""
        rate, factor = self.spec.learning_rate, self.spec.rate_factor
        if rate != "auto":
            return dict.fromkeys(BASE_RATES, rate)
        return scaled(self.factor() if factor is None else factor)

    def factor(self) -> float:
        """Search the factor of the base rates."""
        with self._checkpointing_activations():
            return rate_search.search(
                self.session,
                self.phase,
                self.items,
                steps=self.spec.steps,
                judge=self._judge,
                trainer=lambda factor, steps: self._trainer(scaled(factor), steps=steps),
            )
