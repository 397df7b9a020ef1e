"""Which windows a run takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.recovery import Recovery, recovery
from tests.fixtures.tiny_models import write_tiny_model
from workers.phases import window


def _job(folder: Path, family: str, config: dict[str, Any] | None = None, **fields: Any) -> Recovery:
    model_dir = write_tiny_model(folder / "model", family, **(config or {}))
    calibration = {"dataset": {"kind": "local", "path": __file__}, "samples": 4, "sequence_length": 16}
    reconstruct = {"epochs": 1, "batch_size": 2} | fields
    return recovery(folder / "job", model_dir, Path(__file__), reconstruct=reconstruct, calibration=calibration)


def _allow(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(window, "largest_fitting", lambda *_: kind)


@pytest.mark.parametrize(("norm_first", "taken"), [(True, "submodule"), (False, "matrix")])
def test_auto_takes_matrices_where_a_block_has_no_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, norm_first: bool, taken: str
) -> None:
    _allow(monkeypatch, "submodule")
    job = _job(tmp_path, "opt", {"do_layer_norm_before": norm_first}, window="auto")
    assert job.recover().protocol["reconstructing"]["window"] == taken
    assert job.metrics("error_after")


# (what memory allows, whether norms stand first, what is taken once whole parts are gone)
@pytest.mark.parametrize(
    ("allowed", "norm_first", "taken"),
    [("matrix", True, "submodule"), ("matrix", False, "block"), ("submodule", False, "block")],
)
def test_a_matrix_is_no_window_once_whole_parts_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: str, norm_first: bool, taken: str
) -> None:
    _allow(monkeypatch, allowed)
    job = _job(tmp_path, "opt", {"do_layer_norm_before": norm_first}, window="auto")
    context, spec = job.context(), job.spec.reconstruct
    assert spec is not None
    context.kept = (0, 1)
    assert window._largest(context, spec, context.calibration_windows()) == taken
