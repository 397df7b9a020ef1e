"""`make bench`: what the phases of a job cost, as ratios to two bare forward passes measured in the same run.

The floor is what any sequential pruner must pay: every calibration token through every block twice, once for the
statistics and once for the inputs of the next block. A second table tells how fast the pack is written and read.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from espalier.messages import ComputeRequest
from espalier.model import numerics
from espalier.pipeline import compute
from espalier.probe import probe
from espalier.recipe.resolution import resolve
from espalier.recipe.spec import CompressionSpec
from espalier.session import Session
from espalier.stream.hidden_states import HiddenStates
from tests.bench import packing, peer
from tests.fixtures.library import alone
from tests.fixtures.library.demo_model import DEMO_MODEL

SLOW = {"reconstructing", "retraining"}
"""Phases long enough to be measured once."""
PRUNE = {"method": "wanda", "sparsity": 0.5}


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--sequence-length", type=int, default=256)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--peer", action="store_true", help="Also time llm-compressor, in a venv of its own.")
    parser.add_argument("--repeats", type=int, default=3, help="Runs of what is short; the least counts.")
    arguments = parser.parse_args()
    numerics.use_deterministic_algorithms(arguments.threads)

    calibration = {"samples": arguments.samples, "sequence_length": arguments.sequence_length}
    base: dict[str, Any] = {"calibration": calibration, "evaluate": {"perplexity": []}}
    rows: list[tuple[str, dict[str, Any], str]] = [
        ("magnitude: pruning", {"prune": {"method": "magnitude", "sparsity": 0.5}}, "pruning"),
        ("wanda: pruning", {"prune": PRUNE}, "pruning"),
        ("wanda, dense propagation: pruning", {"prune": PRUNE, "propagation": "dense"}, "pruning"),
        ("wanda, bfloat16 forwards: pruning", {"prune": PRUNE, "compute_dtype": "bfloat16"}, "pruning"),
        ("wanda: exporting", {"prune": PRUNE}, "exporting"),
        ("sparsegpt: pruning", {"prune": {"method": "sparsegpt", "sparsity": 0.5}}, "pruning"),
        ("wanda + submodule: reconstructing", {"prune": PRUNE, "reconstruct": {}}, "reconstructing"),
        ("wanda + PERP, 20 steps of 8: retraining", {"prune": PRUNE, "retrain": {"steps": 20}}, "retraining"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        floor = min(
            _floor(_session(arguments, base | {"prune": PRUNE}, Path(folder) / f"floor-{turn}"))
            for turn in range(arguments.repeats)
        )
        table = Table("phase", "seconds", "x floor", title=f"{arguments.model.name}, floor {floor:.2f} s")
        for number, (label, spec, phase) in enumerate(rows):
            seconds = min(
                _seconds(_session(arguments, base | spec, Path(folder) / f"{number}-{turn}"), phase)
                for turn in range(1 if phase in SLOW else arguments.repeats)
            )
            table.add_row(label, f"{seconds:.2f}", f"{seconds / floor:.2f}")
        Console().print(table)
        if arguments.peer:
            Console().print(_beside_peer(arguments, base, floor, Path(folder)))
        Console().print(_packing(Path(folder)))


def _packing(folder: Path) -> Table:
    table = Table("zeros", "pack MB/s", "unpack MB/s", title="bit-mask pack, 16-bit weights, one core")
    for label, written, read in packing.speeds(folder):
        table.add_row(label, f"{written:.0f}", f"{read:.0f}")
    return table


def _beside_peer(arguments: argparse.Namespace, base: dict[str, Any], floor: float, folder: Path) -> Table:
    """Both from the calibration text to the pruned model, each in a process of its own, in turns."""
    python = peer.install()
    windows_NT = _session(arguments, base | {"prune": PRUNE}, folder / "tokens").calibration_windows()
    table = Table("one-shot, 50 %", "seconds", "x floor", "peak MiB", "seconds / peer's", title=f"beside {peer.PEER}")
    for method in ("wanda", "sparsegpt"):
        spec = base | {"prune": {"method": method, "sparsity": 0.5}}
        ours, theirs = [], []
        for turn in range(arguments.repeats):
            request = _session(arguments, spec, folder / f"{method}-{turn}").request
            ours.append(alone.run(request, "calibrating", "pruning"))
            theirs.append(
                peer.run(
                    python,
                    arguments.model,
                    windows_NT,
                    method=method,
                    sparsity=0.5,
                    threads=arguments.threads,
                    folder=folder,
                )
            )
        fastest = min(run.seconds for run in theirs)
        for name, runs in ((f"{method}, ours", ours), (f"{method}, the peer", theirs)):
            seconds, peak = min(run.seconds for run in runs), min(run.peak_bytes for run in runs)
            numbers = (f"{seconds:.2f}", f"{seconds / floor:.2f}", f"{peak / 2**20:.0f}", f"{seconds / fastest:.2f}")
            table.add_row(name, *numbers)
    return table


def _session(arguments: argparse.Namespace, spec: dict[str, Any], workspace: Path) -> Session:
    request = ComputeRequest(
        spec=resolve(CompressionSpec.model_validate(spec), probe(arguments.model)),
        model_dir=str(arguments.model),
        revision="bench",
        source_name=arguments.model.name,
        datasets={},
        workspace=str(workspace),
        artifact_dir=str(workspace / "artifact"),
        threads=arguments.threads,
        device="cpu",
    )
    (workspace / "artifact").mkdir(parents=True)
    return Session(request, lambda _message: None)


def _floor(session: Session) -> float:
    """Two forward passes of the calibration tokens through the blocks."""
    windows_NT = session.calibration_windows()
    stream = HiddenStates(session.streamed, windows_NT, session.dense)
    began = time.monotonic()
    for index in range(len(session.streamed.layout.blocks)):
        with session.streamed.block(index, session.dense) as block:
            for _ in stream.outputs(block):
                pass
            stream.advance(block)
    return time.monotonic() - began


def _seconds(session: Session, phase: str) -> float:
    compute(session)
    return next(done.seconds for done in session.results.phases if done.phase == phase)


if __name__ == "__main__":
    main()
