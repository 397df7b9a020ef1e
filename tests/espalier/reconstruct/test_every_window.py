"""Windows, modes, losses and trainables in combinations: zeros hold, no window ends worse, kills are healed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from espalier.messages import Checkpoint, Layer, Message, Warned
from espalier.model import numerics
from espalier.reconstruct import window_fit, windows
from espalier.reconstruct.window_choice import by_memory
from espalier.reconstruct.windows import Pair, Streams, WindowPart
from tests.fixtures.library.jobs import KilledError
from tests.fixtures.library.recovery import Recovery, assert_zeros_hold, is_first_block, recovery
from tests.fixtures.library.tiny_models import write_tiny_model

TWO_BLOCKS = {"blocks": 2}
DENSE, SPARSE, BOTH = "dense_inputs", "sparse_inputs", "sparse_inputs_dense_targets"
NM: dict[str, Any] = {"pattern": {"kind": "nm", "n": 2, "m": 4}}
ROWS: dict[str, Any] = {"sparsity": 0.6}
LORA = ["norms", "mask_lora"]
# family, how it is pruned, and what of `reconstruct` is not the default: every pair of window and mode, every
# trainable, loss and pattern with several of them
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("llama", ROWS, {"window": "matrix", "mode": DENSE, "loss": "cosine"}),
    ("opt", NM, {"window": "matrix", "mode": SPARSE, "trainable": ["mask_lora"]}),
    ("gpt2", ROWS, {"window": "matrix", "mode": BOTH, "trainable": ["weights"]}),
    ("gpt2", NM, {"window": "submodule", "mode": DENSE, "trainable": LORA}),
    ("qwen2", ROWS, {"window": "submodule", "mode": SPARSE, "loss": "cosine", "interleave": True}),
    ("llama", NM, {"window": "submodule", "mode": BOTH, "interleave": True}),
    ("qwen3", NM, {"window": "block", "mode": DENSE, "interleave": True, "trainable": LORA}),
    ("opt", ROWS, {"window": "block", "mode": SPARSE, "trainable": ["norms", "biases"]}),
    ("mistral", ROWS, {"window": "block", "mode": BOTH, "loss": "cosine", "trainable": LORA}),
    ("llama", NM, {"window": TWO_BLOCKS, "mode": DENSE, "trainable": ["biases", "mask_lora"]}),
    ("gpt2", ROWS, {"window": TWO_BLOCKS, "mode": SPARSE, "interleave": True}),
    ("opt", NM, {"window": TWO_BLOCKS, "mode": BOTH, "loss": "cosine", "interleave": True}),
    ("qwen2", NM, {"window": "all", "mode": BOTH, "trainable": ["norms"]}),
    ("llama", ROWS, {"window": "auto", "mode": BOTH, "learning_rate": 1.0}),
]


def _job(folder: Path, family: str, prune: dict[str, Any], reconstruct: dict[str, Any], **spec: Any) -> Recovery:
    text = Path(__file__)  # prose or code: a text is a text
    model_dir = folder.parent / f"{folder.name}-{family}"
    if not model_dir.exists():
        write_tiny_model(model_dir, family)
    fields = {"epochs": 1, "batch_size": 4, "rank": 4} | reconstruct
    calibration = {"dataset": {"kind": "local", "path": str(text)}, "samples": 12, "sequence_length": 24}
    steps = [{"method": "wanda"} | prune] if prune else []
    return recovery(folder, model_dir, text, prune=steps, reconstruct=fields, calibration=calibration, **spec)


@pytest.mark.parametrize(("family", "prune", "reconstruct"), CASES)
def test_zeros_hold_and_no_window_ends_worse(
    tmp_path: Path, family: str, prune: dict[str, Any], reconstruct: dict[str, Any]
) -> None:
    job = _job(tmp_path / "job", family, prune, reconstruct)
    session = job.recover()
    before, after = job.metrics("error_before"), job.metrics("error_after")
    assert before
    assert [new.value <= old.value for old, new in zip(before, after, strict=True)] == [True] * len(before)
    assert_zeros_hold(session.weights, session)
    for matrix in session.streamed.layout.matrices:
        mask_OI = session.mask(matrix.name)
        if prune is NM:
            assert (mask_OI.view(len(mask_OI), -1, 4).sum(dim=-1) == 2).all()
        else:
            assert (mask_OI.sum(dim=1) == mask_OI.shape[1] - round(0.6 * mask_OI.shape[1])).all()


@pytest.mark.parametrize("window", ["matrix", "submodule", "block"])
def test_the_dense_model_reads_what_a_prefix_in_bfloat16_gives(window: str, tmp_path: Path) -> None:
    # Norms are float32 while they are fitted, and under autocast so is what they give.
    job = _job(
        tmp_path / "job",
        "llama",
        ROWS,
        {"window": window, "mode": SPARSE, "trainable": ["weights"]},
        compute_dtype="bfloat16",
    )
    assert_zeros_hold((session := job.recover()).weights, session)


@pytest.mark.deep
# What is killed after every kind of message that a span brings: a checkpoint, or the row of a matrix before it.
@pytest.mark.parametrize(
    "reconstruct",
    [
        {"window": "submodule", "mode": BOTH, "interleave": True},
        {"window": "block", "mode": SPARSE, "trainable": ["mask_lora"]},
        {"window": "auto", "mode": DENSE},
    ],
)
def test_a_walk_killed_at_every_message_of_its_spans_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reconstruct: dict[str, Any]
) -> None:
    whole, killed = (_job(tmp_path / name, "llama", ROWS, reconstruct) for name in ("whole", "killed"))
    whole.recover()
    done: set[tuple[str, str]] = set()

    def new(message: Message) -> bool:
        if not isinstance(message, Checkpoint | Layer) or (isinstance(message, Layer) and message.block == 0):
            return False
        key = (message.kind, message.name)
        known = key in done or (isinstance(message, Checkpoint) and message.phase == "pruning")
        done.add(key)
        return not known

    attempts = 0
    while True:
        attempts += 1
        chosen = ("reconstructing", "window") in killed.stored  # a smaller machine must not choose anew
        monkeypatch.setattr(numerics, "host_memory_bytes", lambda chosen=chosen: 100 if chosen else 10**12)
        try:
            session = killed.recover(kill_at=new)
        except KilledError:
            continue
        break
    assert attempts > 5
    for key, item in whole.stored.items():
        if key[1].startswith("block-"):
            assert killed.stored[key].sha256 == item.sha256
    assert session.results.trained_parameters == whole.recover().results.trained_parameters
    taken = session.results.protocol["reconstructing"]["window"]
    assert taken == {"auto": "block"}.get(reconstruct["window"], reconstruct["window"])
    rows = session.results.layers.values()
    assert {row.name for row in rows} == {matrix.name for matrix in session.streamed.layout.matrices}


def _by_the_table(pair: Pair, streams: Streams, *, among: Collection[str]) -> Iterator[WindowPart]:
    """Every matrix from both streams, whatever the mode reads, and also those that are not pruned."""
    assert among
    stream = pair.stream
    runs = ((pair.dense, pair.teacher, streams.teacher), (pair.block, pair.student, streams.student))
    for local in [matrix.local for matrix in pair.layout.matrices]:
        taught, own = (windows.entering(stream, block, local, run, states) for block, run, states in runs)
        inputs = taught if streams.mode == DENSE else own
        targets = stream.forward(pair.dense.get_submodule(local), own if streams.mode == SPARSE else taught)
        owned = frozenset({f"{local}.weight", f"{local}.bias"})
        run = windows.casting(windows.run_of(pair.block, local), stream)
        yield WindowPart(local, owned, run, inputs, targets, windows.scale(stream, targets))


@pytest.mark.parametrize("mode", [DENSE, SPARSE, BOTH])
def test_matrices_are_fitted_to_the_same_bits_without_what_the_mode_does_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    prune = ROWS | {"targets": {"include": ["q_proj", "fc"]}}
    hashes = []
    for name in ("table", "lean"):
        with monkeypatch.context() as patch:
            if name == "table":
                patch.setattr(window_fit, "matrices_of", _by_the_table)
            job = _job(tmp_path / name, "opt", prune, {"window": "matrix", "mode": mode, "epochs": 2})
            job.recover()
        hashes.append({key: item.sha256 for key, item in job.stored.items() if key[1].startswith("block-")})
    assert hashes[0] == hashes[1]


def test_interleaving_prunes_on_what_the_fitted_prefix_gives(tmp_path: Path) -> None:
    two_walks, interleaved = (
        _job(tmp_path / name, "llama", ROWS, {"interleave": name == "interleaved"}) for name in ("walks", "interleaved")
    )
    sessions = [job.recover() for job in (two_walks, interleaved)]
    layout = sessions[0].streamed.layout
    same = {0: True, 1: True}
    for matrix in layout.matrices:
        same[matrix.block] &= torch.equal(*(session.mask(matrix.name) for session in sessions))
    assert same == {0: True, 1: False}  # the first block reads the same text, the second another prefix
    pruning = [[done for done in session.results.phases if done.phase == "pruning"] for session in sessions]
    assert [len(done) for done in pruning] == [1, 1]
    assert pruning[1][0].perplexity is None
    assert {row.sparsity_achieved for row in sessions[1].results.layers.values()} != {0.0}


def test_a_resumed_walk_repeats_what_it_warned_of_while_it_pruned(tmp_path: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "model", "qwen3_moe", num_experts=64)
    text = Path(__file__)
    prune = [{"method": "wanda", "sparsity": 0.5, "targets": {"include": [r"experts\.\d+\.up_proj"]}}]
    calibration = {"dataset": {"kind": "local", "path": str(text)}, "samples": 4, "sequence_length": 8}
    fields = {"interleave": True, "epochs": 1, "batch_size": 2}
    job = recovery(tmp_path / "job", model_dir, text, prune=prune, reconstruct=fields, calibration=calibration)

    with pytest.raises(KilledError):
        job.recover(kill_at=is_first_block)
    warning, *_ = [message.text for message in job.messages if isinstance(message, Warned)]  # of the block and the next
    assert "mlp.experts" in warning
    session = job.recover()
    assert {"code": "idle_experts", "text": warning} in session.results.warnings


def test_rows_show_what_the_refit_did_to_every_matrix(tmp_path: Path) -> None:
    job = _job(tmp_path / "job", "llama", ROWS, {"window": "matrix", "epochs": 3})
    session = job.recover()
    rows = list(session.results.layers.values())
    assert len(rows) == 14
    assert all(row.error_after is not None and row.error_before is not None for row in rows)
    assert all((row.error_after or 0) < (row.error_before or 0) for row in rows)
    matrix = session.streamed.layout.matrices[0]
    walk_rows = [row for row in job.layers if row.name == matrix.name]
    assert len(walk_rows) == 2  # when it was pruned, and when it was fitted
    assert walk_rows[-1] == session.results.layers[matrix.name]


def test_the_protocol_tells_windows_and_tokens(tmp_path: Path) -> None:
    session = _job(tmp_path / "job", "llama", ROWS, {"window": {"blocks": 1}, "mode": SPARSE}).recover()
    assert session.results.protocol["reconstructing"] == {
        "window": {"blocks": 1},
        "mode": SPARSE,
        "loss": "mse",
        "samples": 12,
        "sequence_length": 24,
        "tokens": 288,
    }


def test_the_job_s_own_limit_decides_what_auto_takes(tmp_path: Path) -> None:
    job = _job(tmp_path / "job", "llama", ROWS, {"window": "auto"})
    session, spec = job.session(), job.spec.reconstruct
    assert spec is not None
    assert by_memory(session, spec, session.calibration_windows()) == "block"
    session.request = session.request.model_copy(update={"max_host_memory_bytes": 2**17})
    assert by_memory(session, spec, session.calibration_windows()) != "block"
