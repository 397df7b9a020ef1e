"""What mask optimizers take off the layer errors of ref-llama, on the same activations as the mask they start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.library.jobs import local_job

WANDA = {"method": "wanda", "sparsity": 0.6}


def _errors(folder: Path, reference_dir: Path, **prune: Any) -> dict[str, float]:
    """Relative output errors by matrix; dense propagation, so that every job sees the same inputs."""
    text = {"kind": "local", "path": str(reference_dir / "calibration.txt")}
    job = local_job(
        folder,
        reference_dir / "ref-llama",
        reference_dir,
        calibration={"dataset": text, "samples": 128, "sequence_length": 256},
        propagation="dense",
        prune={**WANDA, **prune},
        evaluate={"perplexity": []},
    )
    job.attempt()
    return {row.name: row.error_before for row in job.layers if row.error_before is not None}


@pytest.mark.numbers
@pytest.mark.reference
@pytest.mark.timeout(1800)
def test_better_masks_take_their_share_off_wanda_s_errors(tmp_path: Path, reference_dir: Path) -> None:
    # With an update the errors are taken from the Gram matrix, as with an optimizer; `before` is the mask alone.
    wanda = _errors(tmp_path / "wanda", reference_dir, update={"kind": "sparsegpt", "mask": "given"})
    for kind, fraction in (("sparseswaps", 0.4), ("sparsefw", 0.2)):
        errors = _errors(tmp_path / kind, reference_dir, optimizer={"kind": kind})
        cuts = [1 - errors[name] / wanda[name] for name in wanda]
        assert min(cuts) >= -1e-6, f"{kind} made a matrix worse"
        assert sum(cuts) / len(cuts) >= fraction, kind
