"""Rows on models of known shapes: where the time of a job goes, and what a block takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tests.gpu import roofline
from tests.gpu.jobs import Profile, run_job
from tests.gpu.setting import Setting
from tests.gpu.shapes import EIGHT, ONE, THIRTY, Shape, tiny
from tests.gpu.table import Measured, Row

WANDA: Final = {"method": "wanda", "pattern": {"kind": "nm", "n": 2, "m": 4}}
SPARSEGPT: Final = {"method": "sparsegpt", "sparsity": 0.5}
STEPS: Final = 12
PROFILED_STEPS: Final = 4
PROFILED_BLOCKS: Final = 2


def profiled_rows() -> list[Row]:
    """Return the jobs on a model of the shape of a 1B, each with a profile of the phase that it is about."""
    refit = {"reconstruct": {"window": "submodule", "epochs": 1, "learning_rate": 0.01}}
    train = {"retrain": {"steps": STEPS, "batch_size": 4, "learning_rate": 1e-4}}
    jobs: list[tuple[str, dict[str, Any], str, int, float]] = [
        ("wanda", {}, "pruning", PROFILED_BLOCKS, 60),
        ("sparsegpt", {"prune": SPARSEGPT}, "pruning", PROFILED_BLOCKS, 40),
        ("reconstruct", refit, "reconstructing", PROFILED_BLOCKS, 60),
        ("perp", train, "retraining", PROFILED_STEPS, 60),
    ]
    return [
        Row(
            f"1B {name}",
            f"{ONE.name}, {ONE.windows} x {ONE.length} tokens{', the whole job' if name == 'wanda' else ''}",
            "it ends; where the time goes",
            seconds,
            _profiling({"prune": WANDA} | spec, phase, until, whole=name == "wanda"),
        )
        for name, spec, phase, until, seconds in jobs
    ]


def _profiling(spec: dict[str, Any], phase: str, until: int, *, whole: bool) -> Callable[[Setting], Measured]:
    def measure(setting: Setting) -> Measured:
        shape = tiny(ONE) if setting.card.pretend else ONE
        profile = Profile(phase, until, setting.card.pretend)
        ended = run_job(
            setting, setting.model(shape), whole=whole, profile=profile, **_texts(setting, shape, 1), **spec
        )
        seconds = ", ".join(f"{name} {spent:.1f} s" for name, spent in ended.seconds.items() if spent >= 0.05)
        if phase == "retraining":
            seconds += f" ({ended.seconds[phase] / STEPS:.2f} s a step of 4 windows)"
        numbers = {"seconds": ended.seconds, "peak_bytes": ended.peaks, **profile.numbers()}
        text = f"{seconds}; peak {ended.peaks[phase] / 2**30:.2f} GiB; {phase}: {profile.text()}"
        return Measured(text, "kernels" in numbers, numbers)

    return measure


def _texts(setting: Setting, shape: Shape, divisor: int) -> dict[str, Any]:
    """Return calibration on a fraction of the shape's windows, and a score of a few."""
    train, valid = ({"kind": "local", "path": str(setting.texts / name)} for name in ("train.txt", "valid.txt"))
    scored = {"name": "text", "dataset": valid, "sequence_length": shape.length, "max_windows": 2}
    samples = max(shape.windows // divisor, 2)
    return {
        "calibration": {"dataset": train, "samples": samples, "sequence_length": shape.length},
        "evaluate": {"latency": False, "after_each_phase": False, "perplexity": [scored]},
    }


@dataclass(frozen=True)
class BlockRow:
    """A phase of which the blocks are timed, on a shape."""

    name: str
    shape: Shape
    method: str
    """As the roofline calls it."""
    phase: str
    spec: dict[str, Any]
    seconds: float
    """The longest that the row may take."""
    target: float | None = None
    """Seconds of the whole model on an H200 that are to be kept, by arithmetic."""
    divisor: int = 1
    """Windows are so many times fewer, and seconds so many times more."""

    def row(self) -> Row:
        """Return it as a row of the proof."""
        part = f", {self.shape.windows // self.divisor} x {self.shape.length} tokens"
        expected = "it ends" if self.target is None else f"on an H200 {self.target:.0f} s for all blocks at most"
        return Row(self.name, self.shape.name + part, expected, self.seconds, self._measure)

    def _measure(self, setting: Setting) -> Measured:
        card, shape = setting.card, tiny(self.shape) if setting.card.pretend else self.shape
        texts = _texts(setting, shape, self.divisor) | {"evaluate": {"latency": False, "perplexity": []}}
        ended = run_job(setting, setting.model(shape), **texts, **self.spec)
        block, peak = ended.block_seconds(self.phase) * self.divisor, ended.peaks[self.phase]
        floor = roofline.block_seconds(
            shape, self.method, roofline.peak_of(setting.facts.get("name", ""), setting.speeds)
        )
        whole = block * self.shape.blocks
        scaled = f", windows scaled {self.divisor} times" if self.divisor > 1 else ""
        text = (
            f"{block:.2f} s a block, {block / floor:.1f} x the roofline of {floor:.3f} s; peak {peak / 2**30:.2f} GiB; "
            f"extrapolated to {self.shape.blocks} blocks{scaled}: {whole:.0f} s"
        )
        numbers = {"block_seconds": block, "roofline_seconds": floor, "peak_bytes": peak, "extrapolated_seconds": whole}
        keeps = self.target is None or "H200" not in setting.facts.get("name", "") or whole <= self.target
        possible = card.pretend or self.method == "reconstruct" or block >= floor
        return Measured(text, keeps and possible, numbers)


REFITTED: Final = {"prune": WANDA, "reconstruct": {"window": "submodule", "epochs": roofline.EPOCHS}}
BLOCKS: Final = (
    BlockRow("8B wanda 2:4", EIGHT, "wanda", "pruning", {"prune": WANDA}, 45, 45),
    BlockRow("8B sparsegpt", EIGHT, "sparsegpt", "pruning", {"prune": SPARSEGPT}, 60, 95),
    BlockRow("30B-A3B wanda 2:4", THIRTY, "wanda", "pruning", {"prune": WANDA}, 60),
    BlockRow("8B reconstruct", EIGHT, "reconstruct", "reconstructing", REFITTED, 60, 240, divisor=4),
)
LAST: Final = BlockRow("30B-A3B sparsegpt", THIRTY, "sparsegpt", "pruning", {"prune": SPARSEGPT}, 120)
"""The longest one, and so behind all others."""


def block_rows() -> list[Row]:
    """Return the rows of blocks that stand by their value."""
    return [row.row() for row in BLOCKS]


def last_rows() -> list[Row]:
    """Return what is measured if there is time."""
    return [LAST.row()]
