"""The library's own functions, as a notebook calls them."""

from __future__ import annotations

import importlib
import json
import pkgutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as save_torch_file
from transformers import AutoModelForCausalLM

import espalier
from espalier.errors import InvalidForModel, NumericalError, SourceRefused
from espalier.messages import Checkpoint, Layer, Log, Message, PhaseStarted
from espalier.model.numerics import deterministic
from espalier.packing.files import PackError
from espalier.packing.pack import pack_file
from espalier.recipe.reading import RecipeError, read_recipe
from espalier.scratch import scratch
from tests.fixtures.library.jobs import local_job
from tests.fixtures.library.tiny_models import write_tiny_model
from tests.fixtures.suite.pages import README, ROOT, block

FUNCTIONS = ("compress", "inspect", "unpack")


def recipe(texts: Path, **more: Any) -> dict[str, Any]:
    train, valid = ({"kind": "local", "path": str(texts / name)} for name in ("train.txt", "valid.txt"))
    scored = {"name": "text", "dataset": valid, "sequence_length": 32, "max_windows": 6}
    return {
        "calibration": {"dataset": train, "samples": 12, "sequence_length": 32},
        "prune": {"method": "wanda", "sparsity": 0.5},
        "evaluate": {"latency": False, "perplexity": [scored]},
        **more,
    }


def test_no_module_takes_the_place_of_a_function_and_they_work(tmp_path: Path) -> None:
    for module in pkgutil.walk_packages(espalier.__path__, "espalier."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert all(callable(getattr(espalier, name)) for name in FUNCTIONS)
    weight = np.arange(64, dtype=np.float32).reshape(8, 8)
    weight[::2] = 0
    dense, packed = tmp_path / "model.safetensors", tmp_path / "model.packed.safetensors"
    save_file({"weight": weight}, dense)
    whole = dense.read_bytes()
    pack_file(dense, packed)
    dense.unlink()
    (tmp_path / "config.json").write_text("{}")

    assert espalier.inspect(tmp_path)["nonzero_parameters"] == 32
    (path,) = espalier.unpack(str(tmp_path), tmp_path / "out")
    assert path.read_bytes() == whole
    assert (tmp_path / "out/config.json").read_text() == "{}"
    with pytest.raises(PackError):
        espalier.unpack(tmp_path / "out/nothing")


def test_a_program_gets_what_a_job_gets(tmp_path: Path, llama: Path, texts: Path) -> None:
    job = local_job(tmp_path / "job", llama, texts, reconstruct={"epochs": 1})
    job.threads = torch.get_num_threads()
    expected = job.attempt()
    messages: list[Message] = []
    report = espalier.compress(
        str(llama), recipe(texts, reconstruct={"epochs": 1}), tmp_path / "small", progress=messages.append, device="cpu"
    )
    assert report["compressed"]["perplexity"] == expected.report["compressed"]["perplexity"]
    assert report.folder == tmp_path / "small"
    for name in ("model.safetensors", "masks.safetensors"):
        assert (report.folder / name).read_bytes() == (job.artifact / name).read_bytes()
    assert {row["verified"] for row in espalier.inspect(report.folder)["files"]} == {True}
    assert json.loads((report.folder / "report.json").read_text()) == report
    AutoModelForCausalLM.from_pretrained(report.folder)
    assert len([message for message in messages if isinstance(message, Layer)]) == len(job.layers) > 0
    assert not any(isinstance(message, Checkpoint) for message in messages), "kilobytes that nobody can use"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_process_is_left_as_it_was(tmp_path: Path, llama: Path, texts: Path) -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    espalier.compress(llama, recipe(texts), tmp_path / "small")
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]


def test_one_that_ends_leaves_another_deterministic_and_the_last_puts_it_back() -> None:
    first, second = deterministic(torch.get_num_threads()), deterministic(torch.get_num_threads())
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.are_deterministic_algorithms_enabled()
    second.__exit__(None, None, None)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("place", ["to-nothing", "to-an-empty-folder"])
def test_an_output_that_is_a_link_is_followed(place: str, tmp_path: Path, llama: Path, texts: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "to-nothing").symlink_to("nothing")
    (tmp_path / "to-an-empty-folder").symlink_to("empty")
    espalier.compress(llama, recipe(texts), tmp_path / place)
    assert (tmp_path / place).is_symlink()
    assert (tmp_path / place / "model.safetensors").is_file()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused(tmp_path: Path, llama: Path, texts: Path) -> None:
    with pytest.raises(ValueError, match="device"):
        espalier.compress(llama, recipe(texts), tmp_path / "small", device="cuda")
    assert list(tmp_path.iterdir()) == []


def test_a_device_of_no_such_name_is_refused(tmp_path: Path, llama: Path) -> None:
    with pytest.raises(ValueError, match="device: 'tpu' is none of auto, cpu, cuda") as refused:
        espalier.compress(llama, "fast", tmp_path / "small", device="tpu")  # type: ignore[arg-type]
    assert type(refused.value) is ValueError


@pytest.mark.parametrize("given", [None, [], b"fast", 5, {"wanda"}])
def test_what_is_no_recipe_is_told_what_one_is(given: Any, tmp_path: Path, llama: Path) -> None:
    with pytest.raises(RecipeError, match=r"a recipe is a spec as a mapping, the path of .* or the name of a preset"):
        espalier.compress(llama, given, tmp_path / "small")


@pytest.mark.parametrize(("name", "words"), [("fast@1.5", "whole number"), ("fast@x", "whole number"), ("fast@7", "1")])
def test_the_version_of_a_preset_is_no_ending_of_a_file(name: str, words: str) -> None:
    with pytest.raises(RecipeError, match=f"/preset: .*{words}"):
        read_recipe(name)


def test_numbers_of_numpy_and_paths_are_what_they_are(texts: Path) -> None:
    plain = recipe(texts, calibration={"samples": 12, "dataset": {"kind": "local", "path": str(texts / "train.txt")}})
    prune = {"method": "wanda", "sparsity": np.float64(0.5), "pattern": {"kind": "nm", "n": np.int64(2), "m": 4}}
    dataset = {"kind": "local", "path": texts / "train.txt"}
    given = {**plain, "prune": (prune,), "calibration": {"samples": np.int32(12), "dataset": dataset}}
    given["evaluate"] = {**plain["evaluate"], "latency": np.bool_(False)}
    plain["prune"] = {"method": "wanda", "sparsity": 0.5, "pattern": {"kind": "nm", "n": 2, "m": 4}}
    assert read_recipe(given) == read_recipe(plain)


def test_what_a_killed_call_left_goes_with_the_next(tmp_path: Path, llama: Path, texts: Path) -> None:
    code = f"""if True:
        import espalier, os, signal
        def kill(_): os.kill(os.getpid(), signal.SIGKILL)
        espalier.compress({str(llama)!r}, {recipe(texts)!r}, {str(tmp_path / "small")!r}, progress=kill)"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (left,) = (path for path in tmp_path.iterdir() if path.name.startswith("."))
    (tmp_path / ".small-mine0000").mkdir()
    (tmp_path / ".small-mine0000/file").touch()
    with scratch(tmp_path / "small") as alive:
        (alive / "file").touch()
        espalier.compress(llama, recipe(texts), tmp_path / "small")
        assert not left.exists()
        assert (alive / "file").is_file(), "a live call holds its lock"
    assert {path.name for path in tmp_path.iterdir()} == {"small", ".small-mine0000"}


def test_a_recipe_that_holds_itself_is_refused(llama: Path) -> None:
    asked: dict[str, Any] = {"prune": {"method": "wanda"}}
    asked["calibration"] = asked
    with pytest.raises(RecipeError, match="JSON"):
        espalier.compress(llama, asked)


def test_an_objective_searches_here(tmp_path: Path, llama: Path, texts: Path) -> None:
    messages: list[Message] = []
    objective = {"max_relative_perplexity_increase": 0.02, "max_trials": 4, "tolerance": 0.1}
    report = espalier.compress(llama, recipe(texts, objective=objective), tmp_path / "s", progress=messages.append)
    reported = report["objective"]
    best = max((trial["sparsity"] for trial in reported["trials"] if trial["kept"]), default=None)
    assert reported["sparsity"] == best
    assert report["sparsity"]["achieved"] == pytest.approx(best, abs=0.01)
    increase = report["compressed"]["perplexity"]["text"] / report["dense"]["perplexity"]["text"] - 1
    assert increase <= 0.02
    labels = [message.text for message in messages if isinstance(message, Log)]
    assert len(labels) == len(reported["trials"]) > 1
    baselines = [m for m in messages if isinstance(m, PhaseStarted) and m.phase == "baseline"]
    assert len(baselines) == len(labels)
    direct = recipe(texts, prune={"method": "wanda", "sparsity": best})
    again = espalier.compress(llama, direct, tmp_path / "again")
    assert (again.folder / "model.safetensors").read_bytes() == (report.folder / "model.safetensors").read_bytes()


def test_a_model_that_cannot_be_measured_ends_a_search_at_once(tmp_path: Path, texts: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][:] = float("nan")
    save_torch_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    messages: list[Message] = []
    objective = {"max_relative_perplexity_increase": 0.02, "max_trials": 3}
    with pytest.raises(NumericalError, match="are not finite"):
        espalier.compress(model, recipe(texts, objective=objective), tmp_path / "s", progress=messages.append)
    assert len([message for message in messages if isinstance(message, Log)]) == 1


def test_a_target_size_is_reached_here_and_recovered_once(tmp_path: Path, llama: Path, texts: Path) -> None:
    dense = sum(tensor.numel() for tensor in AutoModelForCausalLM.from_pretrained(llama).parameters())
    asked = recipe(
        texts,
        prune=[{"method": "structured_obs", "sparsity": 0.75}],
        reconstruct={"epochs": 1},
        objective={"parameters": round(0.9 * dense), "max_trials": 3},
    )
    report = espalier.compress(llama, asked, tmp_path / "small")
    assert report["compressed"]["parameters"] <= 0.9 * dense
    assert "reconstructing" in [phase["name"] for phase in report["phases"]]
    assert report["objective"]["removed"]["neurons"] > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prune": {"method": "wanda", "sparsity": 1.5}}, "/prune/sparsity: "),
        ({"prune": {"method": "wonda", "sparsity": 0.5}}, "/prune/method: "),
        ({"output": {"publish": [{"kind": "s3", "uri": "s3://bucket/x"}]}}, "/output/publish"),
        ({"calibration": {"dataset": {"kind": "huggingface", "name": "c4"}}}, "/calibration/dataset/kind: "),
        ({"prune": {"method": "wanda", "sparsity": {1, 2}}}, "JSON"),
        ({"preset": "fst"}, "/preset: .*these ship: fast, balanced.*did you mean `fast`"),
        ({"preset": "fast@1.5"}, "/preset: the version of a preset is a whole number: write `fast` or `fast@1`"),
        ({"prun": 1}, "/prun: .*did you mean `prune`"),
        ({"prune": [{"method": "wanda", "sparsty": 0.5}]}, "/prune/0/sparsty: .*did you mean `sparsity`"),
        ({"prune": {"method": "wonda", "sparsity": 0.5}}, "/prune/method: .*did you mean `wanda`"),
        ({"compute_dtype": "float3"}, "/compute_dtype: .*did you mean `float32`"),
        ({"prune": {"method": "wanda", "sparsity": 0.5, 3: 1}}, "/prune/3: a key of a recipe is a text"),
        ({7: 1}, "/7: a key of a recipe is a text"),
        ({"prune": {"method": "wanda", "sparsity": np.zeros(3)}}, "/prune/sparsity: JSON cannot hold numpy.ndarray"),
        ({"prune": {"method": "wanda", "sparsity": np.float32("nan")}}, "/prune/sparsity: "),
    ],
)
def test_a_recipe_is_refused_with_the_place(
    tmp_path: Path, llama: Path, texts: Path, change: dict[Any, Any], words: str
) -> None:
    with pytest.raises(espalier.RecipeError, match=words):
        espalier.compress(llama, {**recipe(texts), **change}, tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_a_model_that_cannot_be_compressed_so_is_refused(tmp_path: Path, llama: Path, texts: Path) -> None:
    with pytest.raises(InvalidForModel, match="at most"):
        espalier.compress(llama, recipe(texts, calibration={"sequence_length": 100_000}), tmp_path / "small")
    with pytest.raises(SourceRefused, match="snapshot_download"):
        espalier.compress("org/model", "fast", tmp_path / "small")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(FileExistsError, match="name another folder"):
        espalier.compress(llama, recipe(texts), tmp_path / "full")
    assert {path.name for path in tmp_path.iterdir()} == {"full"}


def test_a_recipe_in_a_file_names_its_texts_from_there(tmp_path: Path, llama: Path, texts: Path) -> None:
    spec = recipe(texts)
    spec["calibration"]["dataset"]["path"] = "train.txt"
    (texts / "recipe.yaml").write_text(json.dumps({"source": {"kind": "local", "path": "x"}, "spec": spec}))
    report = espalier.compress(llama, texts / "recipe.yaml", tmp_path / "small")
    assert report["sparsity"]["achieved"] == 0.5


def test_what_needs_no_torch_loads_none() -> None:
    code = "import espalier, sys; espalier.inspect; espalier.compress; espalier.Client; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.deep
def test_the_notebook_of_the_documents_runs_as_it_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = block("docs/python.md", "In a notebook", "python", "espalier.compress")
    assert script.startswith(block(README, "One job by Python", "python")), "the README prints its beginning"
    assert len(script.strip().splitlines()) <= 8
    (tmp_path / "app").symlink_to(ROOT / "app")
    monkeypatch.chdir(tmp_path)
    exec(script, {})
    assert {"model.safetensors", "report.json", "README.md"} <= {path.name for path in (tmp_path / "small").iterdir()}
