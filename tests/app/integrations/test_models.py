"""Models from the Hub and from this machine, through the fetcher."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from espalier.messages import PhaseCompleted, PhaseStarted, Progress
from espalier.model_files import belongs_to_model
from tests.app.integrations.fetches import HUGGINGFACE, SPEC, Fetch, error, one
from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.servers.hub import Hub, HubRepo
from workers.messages import Fetched, Resolved


def test_a_model_of_the_hub_is_pinned_fetched_and_laid_out(hub: Hub, fetch_as_child: Fetch) -> None:
    repo = hub.add_model("org/model", DEMO_MODEL)
    repo.files |= {"pytorch_model.bin": b"\x80\x02pickle", "evil.py": b"boom", "extra/config.json": b"{}"}
    messages = fetch_as_child(HUGGINGFACE)
    resolved, fetched = one(messages, Resolved), one(messages, Fetched)
    assert isinstance(resolved, Resolved)
    assert isinstance(fetched, Fetched)
    assert resolved.revision == repo.commit
    assert resolved.spec["calibration"]["sequence_length"] is not None
    assert resolved.facts["architecture"]
    laid_out = Path(fetched.model_dir)
    assert sorted(path.name for path in laid_out.iterdir()) == sorted(path.name for path in DEMO_MODEL.iterdir())
    assert (laid_out / "model.safetensors").read_bytes() == (DEMO_MODEL / "model.safetensors").read_bytes()
    assert not {"pytorch_model.bin", "evil.py"} & set(hub.downloads())
    assert [m.phase for m in messages if isinstance(m, PhaseStarted)] == ["resolving", "fetching"]
    assert [m.phase for m in messages if isinstance(m, PhaseCompleted)] == ["resolving", "fetching"]
    last = [message for message in messages if isinstance(message, Progress)][-1]
    assert last.current == last.total > 5_000_000


@pytest.fixture
def engine_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an import of the compute child leaves in this process, where it is the first to load the Hub's client."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("engine_loaded")
def test_the_stand_in_is_reached_from_a_process_that_has_loaded_an_engine(hub: Hub, fetch: Fetch) -> None:
    hub.add_model("org/model", DEMO_MODEL)
    assert isinstance(one(fetch(HUGGINGFACE), Fetched), Fetched)


def test_a_commit_is_downloaded_once_and_a_new_one_again(hub: Hub, fetch: Fetch) -> None:
    repo = hub.add_model("org/model", DEMO_MODEL)
    fetch(HUGGINGFACE)
    hub.asked.clear()
    again = one(fetch(HUGGINGFACE), Resolved)
    assert hub.downloads() == []
    repo.files["README.md"] = b"new"
    changed = one(fetch(HUGGINGFACE), Resolved)
    assert isinstance(again, Resolved)
    assert isinstance(changed, Resolved)
    assert changed.revision == repo.commit != again.revision


@pytest.mark.deep
def test_the_token_reaches_the_hub_and_opens_a_gated_repository(hub: Hub, fetch_as_child: Fetch) -> None:
    hub.add_model("org/model", DEMO_MODEL, token="hf_secret", gated=True)
    assert error(fetch_as_child(HUGGINGFACE)).class_ == "source_gated"
    assert error(fetch_as_child(HUGGINGFACE, token="hf_wrong")).class_ == "source_gated"
    assert isinstance(fetch_as_child(HUGGINGFACE, token="hf_secret")[-1], PhaseCompleted)
    assert {bearer for _, _, bearer in hub.asked} == {None, "hf_wrong", "hf_secret"}


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ({"repo": "org/nothing"}, "owner and name"),  # no such repository
        ({"repo": "org/private"}, "ESPALIER_HF_TOKEN"),  # told apart by nobody
        ({"revision": "v9"}, "branch"),  # no such revision
    ],
)
def test_what_the_hub_does_not_show_is_not_found(hub: Hub, fetch: Fetch, source: dict[str, str], hint: str) -> None:
    hub.add_model("org/model", DEMO_MODEL)
    hub.add_model("org/private", DEMO_MODEL, token="hf_secret")
    refusal = error(fetch({**HUGGINGFACE, **source}))
    assert (refusal.class_, refusal.retryable, refusal.phase) == ("source_not_found", False, "resolving")
    assert hint in refusal.hint


def test_a_hub_that_does_not_answer_is_asked_again_later(hub: Hub, fetch: Fetch) -> None:
    hub.add_model("org/model", DEMO_MODEL)
    hub.broken = 10**6
    refusal = error(fetch(HUGGINGFACE))
    assert (refusal.class_, refusal.retryable) == ("source_unreachable", True)


def test_an_architecture_that_nothing_here_works_on_is_named(hub: Hub, fetch: Fetch) -> None:
    repo = hub.add_model("org/model", DEMO_MODEL)
    config = json.loads(repo.files["config.json"]) | {"model_type": "mamba", "architectures": ["MambaForCausalLM"]}
    repo.files["config.json"] = json.dumps(config).encode()
    refusal = error(fetch(HUGGINGFACE))
    assert (refusal.class_, refusal.retryable) == ("unsupported_architecture", False)
    assert not [name for name in hub.downloads() if name.endswith(".safetensors")]


def test_a_repository_of_pickles_is_unsafe_and_none_of_it_is_downloaded(hub: Hub, fetch_as_child: Fetch) -> None:
    hub.models["org/model"] = HubRepo({"config.json": b"{}", "pytorch_model.bin": b"\x80\x02" + bytes(2000)})
    refusal = error(fetch_as_child(HUGGINGFACE))
    assert refusal.class_ == "source_unsafe"
    assert "safetensors" in refusal.hint
    assert hub.downloads() == []


def test_a_configuration_that_names_code_is_unsafe(hub: Hub, fetch: Fetch) -> None:
    repo = hub.add_model("org/model", DEMO_MODEL)
    config = json.loads(repo.files["config.json"]) | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    repo.files["config.json"] = json.dumps(config).encode()
    assert error(fetch(HUGGINGFACE)).class_ == "source_unsafe"


@pytest.mark.deep
def test_inert_private_keys_do_not_reach_the_child(hub: Hub, fetch: Fetch) -> None:
    repo = hub.add_model("org/model", DEMO_MODEL)
    config = json.loads(repo.files["config.json"]) | {"_name_or_path": "/etc/passwd"}
    repo.files["config.json"] = json.dumps(config).encode()
    fetched = one(fetch(HUGGINGFACE), Fetched)
    assert isinstance(fetched, Fetched)
    assert "_name_or_path" not in json.loads((Path(fetched.model_dir) / "config.json").read_text())


@pytest.mark.deep
def test_bytes_that_are_not_the_promised_ones_are_not_kept(hub: Hub, fetch: Fetch) -> None:
    hub.add_model("org/model", DEMO_MODEL)
    hub.spoiled.add("model.safetensors")
    damaged = error(fetch(HUGGINGFACE))
    assert (damaged.retryable, damaged.module) == (True, "model.safetensors")
    hub.spoiled.clear()
    assert isinstance(fetch(HUGGINGFACE)[-1], PhaseCompleted)


def test_an_index_that_names_a_path_is_refused(hub: Hub, fetch: Fetch) -> None:
    repo = hub.add_model("org/model", DEMO_MODEL)
    repo.files["model.safetensors.index.json"] = json.dumps({"weight_map": {"w": "../../etc/x"}}).encode()
    del repo.files["model.safetensors"]
    assert error(fetch(HUGGINGFACE)).class_ == "source_unsafe"


def test_what_the_model_cannot_carry_is_an_invalid_spec_with_its_pointer(fetch: Fetch) -> None:
    spec = {**SPEC, "calibration": {"sequence_length": 100_000}}
    refusal = error(fetch({"kind": "local", "path": str(DEMO_MODEL)}, spec))
    assert (refusal.class_, refusal.module) == ("invalid_spec", "/spec/calibration/sequence_length")


def test_a_pattern_of_before_is_an_invalid_spec_with_its_pointer(fetch: Fetch) -> None:
    """A job that was queued when patterns were of another syntax."""
    spec = {"prune": {"method": "magnitude", "sparsity": 0.5, "targets": {"include": ["mlp", "(?=q)q_proj"]}}}
    refusal = error(fetch({"kind": "local", "path": str(DEMO_MODEL)}, spec))
    assert (refusal.class_, refusal.module) == ("invalid_spec", "/spec/prune/0/targets/include/1")
    assert "RE2" in refusal.message


def test_a_local_model_is_named_by_its_content(fetch: Fetch, tmp_path: Path) -> None:
    def revision(folder: Path) -> str:
        resolved = one(fetch({"kind": "local", "path": str(folder)}), Resolved)
        assert isinstance(resolved, Resolved)
        return resolved.revision

    copy = tmp_path / "roots" / "copy"
    shutil.copytree(DEMO_MODEL, copy)
    assert revision(copy) == revision(DEMO_MODEL)
    (copy / "README.md").write_text("changed")
    assert revision(copy) != revision(DEMO_MODEL)


def test_a_local_model_outside_of_the_roots_is_not_found(fetch: Fetch, tmp_path: Path) -> None:
    shutil.copytree(DEMO_MODEL, tmp_path / "elsewhere")
    (tmp_path / "roots" / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere", tmp_path / "roots/../elsewhere", tmp_path / "roots/link", "/etc"):
        assert error(fetch({"kind": "local", "path": str(path)})).class_ == "source_not_found"


def test_a_file_that_links_out_of_the_roots_is_refused(fetch: Fetch, tmp_path: Path) -> None:
    copy = tmp_path / "roots" / "copy"
    shutil.copytree(DEMO_MODEL, copy)
    (tmp_path / "secret").write_text("secret")
    (copy / "README.md").symlink_to(tmp_path / "secret")
    assert error(fetch({"kind": "local", "path": str(copy)})).class_ in {"source_not_found", "source_unsafe"}


@pytest.mark.parametrize("name", ["LICENSE-é", "tokenizer.json\n", "model.safetensors.py", "a/config.json"])
def test_what_the_store_cannot_name_is_no_part_of_a_model(name: str) -> None:
    assert not belongs_to_model(name)


@pytest.mark.deep
def test_a_rule_never_compresses_what_a_card_calls_our_output(hub: Hub, fetch: Fetch) -> None:
    output = hub.add_model("org/output", DEMO_MODEL)
    output.card["tags"] = ["transformers", "espalier"]
    source = {"kind": "huggingface", "repo": "org/output", "revision": output.commit}
    refusal = error(fetch(source, refuse_outputs=True))
    assert (refusal.class_, refusal.phase, refusal.retryable) == ("invalid_spec", "resolving", False)
    assert "output of Espalier" in refusal.message
    assert hub.downloads() == []
    one(fetch(source), Resolved)  # a person may
