"""What a stranger's model costs the process that asks: next to nothing, whatever its size says."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.errors import NotReady, TooManyRequests
from app.services.admission import bounded, probe_cache
from espalier.errors import SourceRefused, UnsafeSource, UnsupportedArchitecture
from espalier.probe import facts, headers
from tests.app.services.spelled_out import SPELLED_OUT, mixture
from tests.espalier.probe.checkpoints import (
    LLAMA,
    Tensors,
    header_of,
    safetensors,
    tensors_of,
    write_model,
)

MAX_CPU_SECONDS = 1.0
MAX_BYTES = 64 * 2**20


@contextmanager
def _cheaply() -> Iterator[None]:
    """Hold this thread to its bounds: what a child uses is its own, and other threads belong to other tests."""
    seconds, peak = time.thread_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.thread_time() - seconds < MAX_CPU_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024 < MAX_BYTES


@pytest.mark.parametrize(("config", "tensors"), SPELLED_OUT.values(), ids=list(SPELLED_OUT))
def test_few_bytes_of_configuration_cost_little(config: dict[str, Any], tensors: Tensors, tmp_path: Path) -> None:
    folder = write_model(tmp_path, config, tensors)
    with _cheaply(), pytest.raises((UnsafeSource, UnsupportedArchitecture), match=r"tensors|missing"):
        bounded.probe(folder, owner="a")


@pytest.mark.deep
def test_a_long_header_is_read_elsewhere(tmp_path: Path) -> None:
    tensors = {f"model.layers.0.{'x' * 30}{index}": ("BF16", [1]) for index in range(110_000)}
    write_model(tmp_path, LLAMA, tensors)
    assert headers.header_bytes(tmp_path / "model.safetensors") > 12 * 2**20
    with _cheaply(), pytest.raises(UnsafeSource, match="blocks"):
        bounded.probe(tmp_path, owner="a")


def test_headers_are_bounded_together(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    shards = {f"model-{index}.safetensors": b" " * (2**20) for index in range(20)}
    for name, padding in shards.items():
        (tmp_path / name).write_bytes(safetensors(b"{}" + padding, 0))
    names = ", ".join(f'"t{index}": "{name}"' for index, name in enumerate(shards))
    (tmp_path / headers.INDEX).write_text(f'{{"metadata": {{}}, "weight_map": {{{names}}}}}')
    with _cheaply(), pytest.raises(UnsafeSource, match="16 MiB together"):
        bounded.probe(tmp_path, owner="a")


def test_a_large_mixture_is_read_as_a_small_one_is(tmp_path: Path) -> None:
    config = mixture(8, 192)
    folder = write_model(tmp_path, config, tensors_of(config))
    with _cheaply():
        facts_of_mixture = bounded.probe(folder, owner="a")
    assert facts_of_mixture == facts.probe(folder)
    assert len(facts_of_mixture.matrices) == 8 * (4 + 3 * 192) > bounded.SMALL_NAMES


def test_a_child_refuses_in_the_same_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path, LLAMA | {"vocab_size": 49}, tensors_of(LLAMA))
    refusals = []
    for small in (bounded.SMALL_BYTES, 0):
        monkeypatch.setattr(bounded, "SMALL_BYTES", small)
        with pytest.raises(UnsafeSource) as caught:
            bounded.probe(folder, owner="a")
        refusals.append((caught.value.message, caught.value.hint, caught.value.module))
    assert refusals[0] == refusals[1]


def test_what_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "SMALL_BYTES", 0)
    monkeypatch.setattr(bounded, "WALL_SECONDS", 0.01)
    with pytest.raises(SourceRefused, match="takes more than"):
        bounded.probe(write_model(tmp_path), owner="a")
    monkeypatch.setattr(bounded, "WALL_SECONDS", 60)
    assert bounded.probe(tmp_path, owner="a") == facts.probe(tmp_path)


def test_a_project_has_one_model_read_at_a_time_and_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path)
    monkeypatch.setattr(bounded, "SMALL_BYTES", 0)
    monkeypatch.setattr(bounded, "WAIT_SECONDS", 0.01)
    with bounded.reading_permit("a"):
        with pytest.raises(TooManyRequests):
            bounded.probe(folder, owner="a")
        assert bounded.probe(folder, owner="b").model_type == "llama"
        with ExitStack() as others:
            for number in range(1, bounded.AT_ONCE):
                others.enter_context(bounded.reading_permit(str(number)))
            with pytest.raises(NotReady):
                bounded.probe(folder, owner="b")
    assert bounded.probe(folder, owner="a").model_type == "llama"


def test_an_index_of_any_size_is_read_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / headers.INDEX).write_text(
        '{"metadata": {}, "weight_map": {"b": "2.safetensors", "a": "1.safetensors"}}'
    )
    assert bounded.weight_files(tmp_path, owner="a") == ["1.safetensors", "2.safetensors"]
    monkeypatch.setattr(bounded, "SMALL_BYTES", 0)
    assert bounded.weight_files(tmp_path, owner="a") == ["1.safetensors", "2.safetensors"]
    (tmp_path / headers.INDEX).write_text("{}")
    with pytest.raises(UnsafeSource, match="weight_map"):
        bounded.weight_files(tmp_path, owner="a")


def test_a_folder_that_was_read_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "SMALL_BYTES", 0)
    folder = write_model(tmp_path)
    first = probe_cache.probe_cached(folder)
    monkeypatch.setattr(bounded, "ask", pytest.fail)
    assert probe_cache.probe_cached(folder) == first


def test_headers_count_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for content, num_bytes in [(b"", 0), (b"\xff" * 64, 0), (safetensors(header_of({"a": ("F32", [1])})), 61)]:
        path.write_bytes(content)
        assert headers.header_bytes(path) == num_bytes
