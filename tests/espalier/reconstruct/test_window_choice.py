"""Which windows a run takes, and what it says where they hold nothing to train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from espalier.errors import TargetsError
from espalier.reconstruct import window_choice
from tests.fixtures.library.recovery import Recovery, recovery
from tests.fixtures.library.tiny_models import write_tiny_model

MLP = [{"method": "wanda", "sparsity": 0.5, "targets": {"include": ["mlp"]}}]


def _job(folder: Path, family: str, config: dict[str, Any] | None = None, **fields: Any) -> Recovery:
    model_dir = write_tiny_model(folder / "model", family, **(config or {}))
    calibration = {"dataset": {"kind": "local", "path": __file__}, "samples": 4, "sequence_length": 16}
    prune = fields.pop("prune", [{"method": "wanda", "sparsity": 0.5}])
    reconstruct = {"epochs": 1, "batch_size": 2} | fields
    return recovery(
        folder / "job", model_dir, Path(__file__), prune=prune, reconstruct=reconstruct, calibration=calibration
    )


def _allow(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(window_choice, "largest_window", lambda *_: kind)


@pytest.mark.parametrize("trainable", [["norms"], ["norms", "biases"]])
def test_auto_refuses_a_matrix_that_holds_nothing_to_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainable: list[str]
) -> None:
    _allow(monkeypatch, "matrix")
    with pytest.raises(TargetsError, match="holds no norm") as caught:
        _job(tmp_path, "llama", window="auto", trainable=trainable).recover()
    assert "`weights`" in caught.value.hint


def test_the_biases_of_matrices_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _allow(monkeypatch, "matrix")
    job = _job(tmp_path, "qwen2", window="auto", trainable=["norms", "biases"])
    # Queries have 32 of them; keys and values, two of four heads, 16 each.
    assert job.recover().results.trained_parameters == {"reconstructing": 2 * (32 + 16 + 16)}
    assert job.warnings == []


def test_windows_that_hold_nothing_to_train_are_not_said_to_be_perfect(tmp_path: Path) -> None:
    job = _job(tmp_path, "qwen2", window="submodule", trainable=["biases"], prune=MLP)
    assert job.recover().results.trained_parameters == {"reconstructing": 0}
    assert job.warnings == ["nothing_to_train"]


@pytest.mark.parametrize(("norm_first", "taken"), [(True, "submodule"), (False, "matrix")])
def test_auto_takes_matrices_where_a_block_has_no_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, norm_first: bool, taken: str
) -> None:
    _allow(monkeypatch, "submodule")
    job = _job(tmp_path, "opt", {"do_layer_norm_before": norm_first}, window="auto")
    assert job.recover().results.protocol["reconstructing"]["window"] == taken
    assert job.metrics("error_after")


def test_auto_takes_no_matrix_that_reads_only_some_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _allow(monkeypatch, "matrix")
    taken = {}
    for name, include in (("experts", ["up_proj"]), ("attention", ["q_proj"])):
        prune = [{"method": "wanda", "sparsity": 0.5, "targets": {"include": include}}]
        session = _job(tmp_path / name, "mixtral", window="auto", prune=prune).recover()
        taken[name] = session.results.protocol["reconstructing"]["window"]
    assert taken == {"experts": "submodule", "attention": "matrix"}


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
    session, spec = job.session(), job.spec.reconstruct
    assert spec is not None
    session.kept = (0, 1)
    assert window_choice.largest(session, spec, session.calibration_windows()) == taken
