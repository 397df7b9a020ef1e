"""What is factorised of a Gram matrix is made once, changes no result, and is gone with its last reader."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from espalier.methods import quadratic
from espalier.methods.factorisations import SharedFactorisations
from tests.fixtures.library.jobs import local_job


def test_matrices_of_one_input_share_until_the_last_is_done() -> None:
    shared = SharedFactorisations(["hidden", "hidden", "inner"])
    first = shared.of("hidden")
    assert first.once("a", lambda: [1]) == [1]
    assert first.once("a", lambda: [2]) == [1]
    assert first.once("b", lambda: [2]) == [2]
    assert shared.of("inner") is not first
    assert shared.of("hidden") is first
    made = weakref.ref(first)
    del first
    gc.collect()
    assert made() is None


def test_what_fails_is_tried_again() -> None:
    known = SharedFactorisations(["hidden"]).of("hidden")
    with pytest.raises(ZeroDivisionError):
        known.once("a", lambda: 1 // 0)
    assert known.once("a", lambda: 1) == 1


@pytest.mark.parametrize(
    ("prune", "owner", "name"),
    [
        ({"method": "sparsegpt", "sparsity": 0.5}, quadratic, "cholesky"),
        ({"method": "wanda", "sparsity": 0.5, "update": {"kind": "alps", "iterations": 2}}, torch.linalg, "eigh"),
        ({"method": "wanda", "sparsity": 0.5, "update": {"kind": "admm", "iterations": 2}}, torch.linalg, "cholesky"),
    ],
    ids=["sparsegpt", "alps", "admm"],
)
def test_every_input_is_factorised_once(
    prune: dict[str, Any],
    owner: Any,
    name: str,
    tmp_path: Path,
    llama: Path,
    texts: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, calls = getattr(owner, name), []

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return plain(*args, **kwargs)

    monkeypatch.setattr(owner, name, counting)
    local_job(tmp_path, llama, texts, prune=prune).attempt()
    distinct = 4  # inputs of a block: of query, key and value; of the output; of gate and up; of down
    assert len(calls) == 2 * distinct


def test_what_is_assumed_is_left_to_whoever_looks_later() -> None:
    later: list[torch.Tensor] = []
    known = SharedFactorisations(["hidden"], later.append).of("hidden")
    assert known.holds(torch.tensor(False))
    assert [bool(each) for each in later] == [False]
    assert not SharedFactorisations(["hidden"]).of("hidden").holds(torch.tensor(False))
