"""What a phase may cost on a card: how waits and bytes grow with model, text and steps, and how they do not.

A job is run twice, the second time with twice as much of one thing, so that what is asserted is the order of growth and
not a constant that a new version of torch or transformers moves. That a budget can be broken is planted and seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from espalier.memory.pruning import ERROR_TOKENS, NUM_SHARDS
from espalier.methods import quadratic
from espalier.model import masks
from espalier.stream.hidden_states import HiddenStates
from tests.fixtures.library.jobs import write_texts
from tests.fixtures.library.recovery import save_every_step
from tests.fixtures.library.tiny_models import write_tiny_model
from tests.standin.card import CARD
from tests.standin.runs import Run, run_on_card

pytestmark = pytest.mark.deep
PER_BLOCK: Final = 3
"""Waits for a block more: for its inputs' checks, for its numbers, and for its masks and tensors."""
PER_STEP: Final = 2
"""Waits for a step more of a training: its loss is looked at, and transformers looks whether windows are packed."""
PER_STATE: Final = 1
"""Waits for a training state: all that moves crosses at once."""
PER_ITERATION: Final = 1
"""Waits for an iteration over a matrix: which rows are not done."""
FIGURES: Final = 1024
"""Bytes of the numbers that are reported, of a few matrices."""
CROSSINGS: Final = 1
"""Of a block in `pruning`: what gathers statistics is pruned there, and gives the inputs of the next block."""
WANDA: Final[dict[str, Any]] = {"method": "wanda", "sparsity": 0.5}
PRUNED: Final[dict[str, dict[str, Any]]] = {
    "wanda": WANDA,
    "nm": {"method": "ria", "pattern": {"kind": "nm", "n": 2, "m": 4}},
    "sparsegpt": {**WANDA, "update": {"kind": "sparsegpt"}},
    "alps": {**WANDA, "update": {"kind": "alps", "iterations": 4, "refine": 1}},
}
LENGTH: Final = 32
ENOUGH: Final = ERROR_TOKENS // LENGTH
"""Windows; of more text no sample is kept."""
WIDER: Final = {"hidden_size": 64, "intermediate_size": 128}

RunJob = Callable[..., Run]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunJob:
    """A function that runs a job on the card; one that is asked for again is not run again."""
    texts = write_texts(tmp_path_factory.mktemp("texts"))
    known: dict[str, Run] = {}

    def run(prune: Any, **fields: Any) -> Run:
        key = repr((prune, sorted(fields.items())))
        if key not in known:
            known[key] = _run(tmp_path_factory.mktemp("job"), texts, prune, **fields)
        return known[key]

    return run


@pytest.fixture
def run_anew(tmp_path_factory: pytest.TempPathFactory) -> RunJob:
    """A function that runs every job itself: what is planted changes nothing that is known already."""
    texts = write_texts(tmp_path_factory.mktemp("texts"))

    def run(prune: dict[str, Any], **fields: Any) -> Run:
        return _run(tmp_path_factory.mktemp("job"), texts, prune, **fields)

    return run


def _run(
    folder: Path,
    texts: Path,
    prune: Any,
    *,
    samples: int = 4,
    more: dict[str, Any] | None = None,
    **model: Any,
) -> Run:
    calibration = {
        "dataset": {"kind": "local", "path": str(texts / "train.txt")},
        "samples": samples,
        "sequence_length": LENGTH,
    }
    source = write_tiny_model(folder / "model", **model)
    return run_on_card(folder / "job", source, texts, calibration=calibration, prune=prune, **(more or {}))


def _waits(run: Run, phase: str = "pruning") -> int:
    return run.phases[phase].waits


def _assert_size_costs_no_wait(run: RunJob, prune: dict[str, Any]) -> None:
    assert _waits(run(prune, **WIDER)) == _waits(run(prune)), "the host waits for rows and columns"


def _assert_states_stay(run: RunJob) -> None:
    few, many = (run(WANDA, samples=count).phases["pruning"] for count in (ENOUGH, 2 * ENOUGH))
    tokens = ENOUGH * LENGTH * torch.int64.itemsize
    assert many.to_device - few.to_device <= 2 * tokens, "more text is more tokens, and nothing else"
    assert many.to_host == few.to_host, "more text comes back to the host"


@pytest.mark.parametrize("name", PRUNED)
def test_pruning_waits_no_longer_for_more_rows_and_columns(name: str, run: RunJob) -> None:
    _assert_size_costs_no_wait(run, PRUNED[name])


@pytest.mark.parametrize("model", [{}, WIDER], ids=["narrow", "wide"])
def test_swapping_waits_for_its_iterations_alone(model: dict[str, Any], run: RunJob) -> None:
    swapped = run({**WANDA, "optimizer": {"kind": "sparseswaps", "iterations": 4}}, **model)
    assert _waits(swapped) - _waits(run(WANDA, **model)) <= 14 * 4 * PER_ITERATION


@pytest.mark.parametrize("name", ["wanda", "sparsegpt"])
def test_pruning_waits_in_proportion_to_the_blocks(name: str, run: RunJob) -> None:
    two, four = (_waits(run(PRUNED[name], num_hidden_layers=count)) for count in (2, 4))
    assert two < four <= two + 2 * PER_BLOCK


def test_pruning_waits_no_longer_for_more_text(run: RunJob) -> None:
    # With eight windows or more there are eight shards of them, each a batch at least.
    assert _waits(run(WANDA, samples=2 * NUM_SHARDS)) == _waits(run(WANDA, samples=NUM_SHARDS))


def test_a_mixture_waits_no_longer_for_more_experts(run: RunJob) -> None:
    few, many = (run(WANDA, family="mixtral", num_local_experts=count) for count in (4, 8))
    for phase in ("baseline", "evaluating"):
        assert _waits(many, phase) == _waits(few, phase), phase
    assert _waits(many) == _waits(few)


def test_a_solver_waits_no_longer_for_more_experts(run: RunJob) -> None:
    few, many = (run(PRUNED["sparsegpt"], family="mixtral", num_local_experts=count) for count in (4, 8))
    assert _waits(many) == _waits(few)


def test_a_matrix_that_cannot_be_factorised_is_damped_behind_the_host_s_back(
    run: RunJob, run_anew: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, spec = quadratic.damped, PRUNED["sparsegpt"]
    usual = run(spec)
    dampings: list[float] = []

    def negative(gram_II: torch.Tensor, damping: float) -> torch.Tensor:
        dampings.append(damping)
        return plain(gram_II, damping) * (-1 if damping < 0.1 else 1)  # of the first damping, 0.01

    monkeypatch.setattr(quadratic, "damped", negative)
    made = run_anew(spec)
    assert dampings[:4] == [0.01] * 4, "a block is taken to stand"
    assert dampings[4:12] == [0.01, 0.1] * 4, "and done again, looked at one by one"
    assert _waits(made) > _waits(usual)


@pytest.mark.parametrize("method", ["flap", "structured_obs"])
def test_a_narrowing_sends_no_input_to_the_host(method: str, run: RunJob) -> None:
    step = [{"method": method, "sparsity": 0.25, "pattern": {"kind": "neurons"}}]
    few, many = (run(step, samples=count).phases["pruning"] for count in (NUM_SHARDS, 2 * NUM_SHARDS))
    assert many.to_host == few.to_host
    assert many.waits == few.waits


def test_experts_are_judged_without_a_wait_for_each(run: RunJob) -> None:
    step = [{"method": "reap", "sparsity": 0.5, "pattern": {"kind": "experts"}}]
    few, many = (_waits(run(step, family="mixtral", num_local_experts=count)) for count in (4, 8))
    assert many == few


def test_a_training_waits_for_its_steps_alone(run: RunJob) -> None:
    def trained(steps: int, **model: Any) -> int:
        retrain = {"steps": steps, "batch_size": 2, "learning_rate": 0.001, "trainable": ["norms"]}
        return _waits(run(WANDA, more={"retrain": retrain}, **model), "retraining")

    assert 0 < trained(8) - trained(4) <= PER_STEP * 4
    assert trained(8, **WIDER) == trained(8)


@pytest.mark.parametrize("fields", [{"trainable": ["norms", "mask_lora"]}, {"method": "full"}], ids=["perp", "full"])
def test_a_training_waits_no_longer_for_more_that_moves(fields: dict[str, Any], run: RunJob) -> None:
    retrain = {"steps": 4, "batch_size": 2, "learning_rate": 0.001}
    norms, more = (run(WANDA, more={"retrain": retrain | each}) for each in ({"trainable": ["norms"]}, fields))
    assert _waits(more, "retraining") - _waits(norms, "retraining") <= ("method" in fields), "what is kept is counted"


def test_adamw_is_fused_on_a_card(run_anew: RunJob, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()
    monkeypatch.setattr(CARD, "fault", lambda name: seen.update([name]))
    run_anew(WANDA, more={"retrain": {"steps": 4, "batch_size": 2, "learning_rate": 0.001, "method": "full"}})
    assert seen["_fused_adamw_"] == 4 * 2, "a kernel for norms, one for weights"
    assert not seen["_foreach_addcdiv_"] + seen["addcdiv_"], "no roots of the second moments lie beside them"


def test_a_training_state_crosses_at_once(run: RunJob, run_anew: RunJob, monkeypatch: pytest.MonkeyPatch) -> None:
    retrain = {"steps": 4, "batch_size": 2, "learning_rate": 0.001, "trainable": ["norms", "mask_lora"]}
    without = run(WANDA, more={"retrain": retrain})
    save_every_step(monkeypatch)
    states = run_anew(WANDA, more={"retrain": retrain})
    assert 0 < _waits(states, "retraining") - _waits(without, "retraining") <= PER_STATE * 4


def test_a_reconstruction_waits_for_its_steps_alone(run: RunJob) -> None:
    def refitted(epochs: int, **model: Any) -> int:
        reconstruct = {"epochs": epochs, "batch_size": 2, "learning_rate": 0.001, "window": "block"}
        return _waits(run(WANDA, more={"reconstruct": reconstruct}, **model), "reconstructing")

    steps = 2 * 2 * 2  # blocks, epochs, batches
    measured = 2 * 2 * (2 + 1)  # blocks, epochs; the newest state and the best one, the error
    assert 0 < refitted(4) - refitted(2) <= PER_STEP * steps + measured
    assert refitted(2, **WIDER) == refitted(2)


def test_hidden_states_stay_on_the_card(run: RunJob) -> None:
    _assert_states_stay(run)


def test_weights_cross_as_they_are_stored(run: RunJob) -> None:
    few, many = (run(WANDA, samples=ENOUGH, num_hidden_layers=count).phases["pruning"] for count in (2, 4))
    assert few.host_casts == many.host_casts == 0
    block = 2 * (4 * 32 * 32 - 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32)  # bfloat16
    assert many.to_device - few.to_device <= 2 * CROSSINGS * block, "inputs that errors are measured on stay"
    masks = 4 * 32 * 32 - 2 * 32 * 16 + 3 * 32 * 64
    assert many.to_host - few.to_host <= 2 * (block + masks) + FIGURES


def test_the_dense_model_crosses_twice_for_all_that_is_measured(run: RunJob) -> None:
    """Once as stock transformers loads it, and once as the blocks do: certificate and perplexity share that."""
    few, many = (run(WANDA, num_hidden_layers=count).phases["baseline"] for count in (2, 4))
    block = 2 * (4 * 32 * 32 - 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32)  # bfloat16
    assert few.host_casts == many.host_casts == 0
    assert many.to_device - few.to_device == 2 * 2 * block
    assert many.to_host - few.to_host <= FIGURES, "a number for each tensor: whether it is finite"
    assert _waits(run(WANDA, num_hidden_layers=4), "baseline") == _waits(run(WANDA), "baseline")


def test_a_planted_wait_for_every_piece_of_columns_is_seen(run_anew: RunJob, monkeypatch: pytest.MonkeyPatch) -> None:
    solve = torch.linalg.solve_triangular

    def waiting(*args: Any, **kwargs: Any) -> torch.Tensor:
        solved: torch.Tensor = solve(*args, **kwargs)
        assert solved.sum().item() is not None
        return solved

    monkeypatch.setattr(torch.linalg, "solve_triangular", waiting)
    with pytest.raises(AssertionError, match="rows and columns"):
        _assert_size_costs_no_wait(run_anew, PRUNED["sparsegpt"])


def test_a_planted_copy_to_the_host_is_seen(run_anew: RunJob, monkeypatch: pytest.MonkeyPatch) -> None:
    output = HiddenStates.output

    def through_the_host(self: HiddenStates, *args: Any) -> torch.Tensor:
        return output(self, *args).cpu()

    monkeypatch.setattr(HiddenStates, "output", through_the_host)
    with pytest.raises(AssertionError, match="more text"):
        _assert_states_stay(run_anew)


def test_a_planted_mix_of_devices_is_seen(run_anew: RunJob, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = masks.apply
    monkeypatch.setattr(masks, "apply", lambda weight_OI, mask_OI: apply(weight_OI, mask_OI.cpu()))
    with pytest.raises(RuntimeError, match="same device"):
        run_anew(WANDA)


def test_a_full_card_leaves_a_gram_matrix_to_the_host(
    run: RunJob, run_anew: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = [{"method": "structured_obs", "sparsity": 0.25, "pattern": {"kind": "neurons"}}]
    roomy = run(step, samples=NUM_SHARDS).phases["pruning"]
    monkeypatch.setattr("espalier.structure.width.free_bytes", lambda _: 0)
    assert run_anew(step, samples=NUM_SHARDS).phases["pruning"].to_host > roomy.to_host
