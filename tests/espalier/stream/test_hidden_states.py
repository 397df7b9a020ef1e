"""One stream of hidden states: the same bits in memory and in a file, and nobody's states change under him."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from espalier.model.numerics import generator
from espalier.model.streamed import StreamedModel
from espalier.model.weights import Weights
from espalier.stream.hidden_states import HiddenStates
from tests.fixtures.library.tiny_models import VOCABULARY, write_tiny_model

TOKENS = torch.randint(VOCABULARY, (5, 16), generator=generator(0))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[StreamedModel, Weights]:
    folder = write_tiny_model(tmp_path_factory.mktemp("model"))
    streamed = StreamedModel(folder, compute_dtype=torch.float32, device=torch.device("cpu"))
    return streamed, Weights(folder)


def _advanced(stream: HiddenStates, weights: Weights) -> torch.Tensor:
    with stream.streamed.block(stream.index, weights) as block:
        stream.advance(block)
    return stream.states


@pytest.mark.parametrize("batches", [[2, 2, 1], [5], 2])
def test_a_file_holds_the_same_bits_as_memory(
    batches: int | list[int], source: tuple[StreamedModel, Weights], tmp_path: Path
) -> None:
    streamed, weights = source
    kept = HiddenStates(streamed, TOKENS, weights, batches=batches)
    spilled = HiddenStates(streamed, TOKENS, weights, batches=batches, states_in=tmp_path / "spill")
    assert torch.equal(kept.states, spilled.states)
    for _ in streamed.layout.blocks:
        assert torch.equal(_advanced(kept, weights), _advanced(spilled, weights))
    assert kept.mean_square(kept.states) == spilled.mean_square(spilled.states)
    assert list((tmp_path / "spill").iterdir()) == []


def test_walking_and_advancing_give_the_same_bits(source: tuple[StreamedModel, Weights]) -> None:
    streamed, weights = source
    walked, advanced = (HiddenStates(streamed, TOKENS, weights, batches=2) for _ in range(2))
    walked.advance_to(2, weights)
    for _ in range(2):
        _advanced(advanced, weights)
    assert (walked.index, advanced.index) == (2, 2)
    assert torch.equal(walked.states, advanced.states)


def test_states_are_overwritten_only_by_who_holds_them_alone(source: tuple[StreamedModel, Weights]) -> None:
    streamed, weights = source
    stream = HiddenStates(streamed, TOKENS, weights)
    place = stream.states.data_ptr()
    assert _advanced(stream, weights).data_ptr() == place, "alone: no second tensor"
    fork, before = stream.fork(), stream.states.clone()
    assert _advanced(stream, weights).data_ptr() != place
    assert torch.equal(fork.states, before)
    assert not torch.equal(fork.states, stream.states)
    del fork
    other = stream.at_block(0, stream.states)
    _advanced(other, weights)
    assert stream.states.data_ptr() != other.states.data_ptr()


def test_the_first_windows_go_through_in_the_batches_that_all_of_them_go_in(
    source: tuple[StreamedModel, Weights],
) -> None:
    streamed, weights = source
    sizes: list[int] = []
    stream = HiddenStates(streamed, TOKENS, weights, batches=[1, 3, 1])

    def run(hidden_BTD: torch.Tensor) -> torch.Tensor:
        sizes.append(len(hidden_BTD))
        return hidden_BTD

    for count in (5, 3, 1):
        assert torch.equal(stream.forward(run, stream.states[:count]), stream.states[:count])
    assert sizes == [1, 3, 1, 1, 2, 1]


def test_a_full_disk_is_an_error_and_leaves_no_file(
    source: tuple[StreamedModel, Weights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("espalier.stream.hidden_states.os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        HiddenStates(source[0], TOKENS, source[1], states_in=tmp_path / "spill")
    assert list((tmp_path / "spill").iterdir()) == []
