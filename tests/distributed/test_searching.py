"""A search that several ranks run tries what one process tries, also where a trial fails on one rank alone."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from espalier import pipeline
from espalier.distributed.group import RankGroup
from espalier.errors import NumericalError
from espalier.messages import Done
from espalier.model.numerics import deterministic
from espalier.prune.pruning import BlockPruner
from tests.distributed.ranks import run_ranks
from tests.fixtures.library.jobs import local_job, write_texts
from tests.fixtures.library.tiny_models import write_tiny_model


def search(folder: Path, model_dir: Path, texts: Path, group: RankGroup) -> tuple[str, dict[str, Any]]:
    """Run a search whose first trial fails on the last rank alone; its artifact, and its report."""
    job = local_job(folder, model_dir, texts, objective={"max_relative_perplexity_increase": 0.5})
    prune, failed = BlockPruner.prune_own, list[str]()

    def failing(pruner: BlockPruner, matrices: Any, *rest: Any) -> Any:
        if group.rank == group.size - 1 and not failed:
            failed.append("once")
            raise NumericalError("not finite", hint="None.")
        return prune(pruner, matrices, *rest)

    with deterministic(1), pytest.MonkeyPatch.context() as patch:
        patch.setattr(BlockPruner, "prune_own", failing)
        done = pipeline.run(job.request(), lambda _: None, group)
    assert isinstance(done, Done)
    return hashlib.sha256((job.artifact / "model.safetensors").read_bytes()).hexdigest(), done.report["objective"]


@pytest.mark.deep
def test_a_search_of_two_ranks_tries_what_one_process_tries(tmp_path: Path) -> None:
    model_dir, texts = write_tiny_model(tmp_path / "model"), write_texts(tmp_path)
    alone = search(tmp_path / "alone", model_dir, texts, RankGroup.alone())
    assert alone[1]["trials"][0]["kept"] is False, "the first trial failed"
    assert run_ranks(2, partial(search, tmp_path / "two", model_dir, texts)) == [alone] * 2
