"""Versions of models registered at MLflow, through the real fetcher process and a stand-in of the REST interface."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from app.integrations.mlflow.source import MlflowSource
from app.integrations.shared.sources import Access
from espalier.errors import SourceNotFound
from espalier.messages import PhaseCompleted, Progress
from tests.app.integrations.fetches import Fetch, error, one
from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.servers.mlflow import MlflowServer, basic, mlflow
from workers.messages import Fetched, Resolved

__all__ = ["mlflow"]

LATEST = {"kind": "mlflow", "name": "demo", "version": "1"}


def login(server: MlflowServer, **fields: str) -> dict[str, str]:
    return {"tracking_uri": server.url, **fields}


@pytest.mark.parametrize("flavour", [True, False], ids=["transformers flavour", "plain folder"])
def test_a_version_is_pinned_by_number_and_content(mlflow: MlflowServer, fetch: Fetch, *, flavour: bool) -> None:
    mlflow.register("demo", DEMO_MODEL, flavour=flavour)
    root = mlflow.root("demo", "1")
    mlflow.files |= {f"{root}/{'model/' if flavour else ''}pytorch_model.bin": b"\x80\x02", f"{root}/evil.py": b"boom"}
    messages = fetch(LATEST, mlflow=login(mlflow))
    resolved, fetched = one(messages, Resolved), one(messages, Fetched)
    assert isinstance(resolved, Resolved)
    assert isinstance(fetched, Fetched)
    version, _, digest = resolved.revision.partition("-")
    assert version == "1"
    assert len(digest) == 64
    laid_out = Path(fetched.model_dir)
    assert sorted(path.name for path in laid_out.iterdir()) == sorted(path.name for path in DEMO_MODEL.iterdir())
    assert (laid_out / "model.safetensors").read_bytes() == (DEMO_MODEL / "model.safetensors").read_bytes()
    assert sorted(mlflow.downloads()) == sorted(path.name for path in DEMO_MODEL.iterdir())
    last = [message for message in messages if isinstance(message, Progress)][-1]
    assert last.current == last.total > 5_000_000


def test_both_layouts_and_a_folder_here_hold_one_content(mlflow: MlflowServer, fetch: Fetch, tmp_path: Path) -> None:
    mlflow.register("demo", DEMO_MODEL, flavour=True)
    mlflow.register("demo", DEMO_MODEL)
    digests = []
    for source in (LATEST, {**LATEST, "version": "2"}, {"kind": "local", "path": str(DEMO_MODEL)}):
        resolved = one(fetch(source, mlflow=login(mlflow)), Resolved)
        assert isinstance(resolved, Resolved)
        digests.append(resolved.revision.rpartition("-")[2])
    assert len(set(digests)) == 1


def test_an_alias_is_the_version_that_it_points_at_now(mlflow: MlflowServer, fetch: Fetch, tmp_path: Path) -> None:
    mlflow.register("demo", DEMO_MODEL)
    other = shutil.copytree(DEMO_MODEL, tmp_path / "other")
    (other / "README.md").write_text("new")
    mlflow.register("demo", other)
    alias = {"kind": "mlflow", "name": "demo", "alias": "champion"}
    mlflow.aliases["demo", "champion"] = "1"
    first = one(fetch(alias, mlflow=login(mlflow)), Resolved)
    mlflow.aliases["demo", "champion"] = "2"
    mlflow.asked.clear()
    second = one(fetch(alias, mlflow=login(mlflow)), Resolved)
    assert isinstance(first, Resolved)
    assert isinstance(second, Resolved)
    assert (first.revision[:2], second.revision[:2]) == ("1-", "2-")
    assert first.revision[2:] != second.revision[2:]
    assert "model.safetensors" in mlflow.downloads()


@pytest.mark.parametrize("mark", ["tag", "card"])
def test_a_rule_never_compresses_a_copy_of_an_output(
    mlflow: MlflowServer, fetch: Fetch, tmp_path: Path, mark: str
) -> None:
    copy = shutil.copytree(DEMO_MODEL, tmp_path / "copy")
    if mark == "card":
        (copy / "README.md").write_text("---\nlibrary_name: transformers\ntags: [espalier, pruned]\n---\n# A model\n")
    mlflow.register("demo", copy, tags=[{"key": "espalier.job", "value": "job_1"}] if mark == "tag" else [])
    refusal = error(fetch(LATEST, mlflow=login(mlflow), refuse_outputs=True))
    assert (refusal.class_, refusal.retryable) == ("invalid_spec", False)
    assert "output of Espalier" in refusal.message
    one(fetch(LATEST, mlflow=login(mlflow)), Resolved)  # a person may


def test_what_is_whole_is_not_downloaded_again_and_what_changed_is(mlflow: MlflowServer, fetch: Fetch) -> None:
    mlflow.register("demo", DEMO_MODEL)
    first = one(fetch(LATEST, mlflow=login(mlflow)), Resolved)
    mlflow.asked.clear()
    assert one(fetch(LATEST, mlflow=login(mlflow)), Resolved).revision == first.revision  # type: ignore[union-attr]
    assert set(mlflow.downloads()) == {"config.json"}, "asked for, so that only who may read it has it"
    mlflow.files[f"{mlflow.root('demo', '1')}/README.md"] = b"written over"
    changed = one(fetch(LATEST, mlflow=login(mlflow)), Resolved)
    assert changed.revision != first.revision  # type: ignore[union-attr]


def test_a_file_that_breaks_off_is_not_kept(mlflow: MlflowServer, tmp_path: Path) -> None:
    mlflow.register("demo", DEMO_MODEL)
    access = Access(cache_dir=tmp_path, systems={"mlflow": login(mlflow)})
    path = f"{mlflow.root('demo', '1')}/tokenizer.json"
    whole = mlflow.files[path]

    class Shrinking(dict[str, bytes]):
        """Lists the whole file and sends a part of it."""

        def __getitem__(self, key: str) -> bytes:
            return whole[:100] if key == path else super().__getitem__(key)

    mlflow.files = Shrinking(mlflow.files)
    with pytest.raises(SourceNotFound, match="did not arrive whole") as caught:
        MlflowSource(name="demo", version="1").fetch("1", access)
    assert caught.value.module == "tokenizer.json"
    assert not list(tmp_path.rglob("tokenizer.json"))
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ({"name": "nothing"}, "version"),  # no such model
        ({"version": "7"}, "version"),  # no such version
        ({"version": None, "alias": "nobody"}, "alias"),  # no such alias
    ],
)
def test_what_the_registry_does_not_have_is_not_found(
    mlflow: MlflowServer, fetch: Fetch, source: dict[str, str | None], word: str
) -> None:
    mlflow.register("demo", DEMO_MODEL)
    refusal = error(fetch({**LATEST, **source}, mlflow=login(mlflow)))
    assert (refusal.class_, refusal.retryable, refusal.phase) == ("source_not_found", False, "resolving")
    assert word in refusal.hint


def test_a_login_opens_the_registry(mlflow: MlflowServer, fetch: Fetch) -> None:
    mlflow.register("demo", DEMO_MODEL)
    mlflow.login = basic("anna", "secret")
    refused = error(fetch(LATEST, mlflow=login(mlflow)))
    assert (refused.class_, "PUT /v1/credentials/mlflow" in refused.hint) == ("source_gated", True)
    assert error(fetch(LATEST, mlflow=login(mlflow, token="x"))).class_ == "source_gated"
    assert isinstance(fetch(LATEST, mlflow=login(mlflow, username="anna", password="secret"))[-1], PhaseCompleted)
    mlflow.login = "Bearer t0ken"
    assert isinstance(fetch(LATEST, mlflow=login(mlflow, token="t0ken"))[-1], PhaseCompleted)


def test_a_server_that_is_away_is_asked_again_later(mlflow: MlflowServer, fetch: Fetch) -> None:
    mlflow.broken = 10**6
    assert error(fetch(LATEST, mlflow=login(mlflow))).retryable
    nobody = {"tracking_uri": "http://127.0.0.1:9"}
    assert error(fetch(LATEST, mlflow=nobody)).retryable
    assert "ESPALIER_MLFLOW_TRACKING_URI" in error(fetch(LATEST)).hint


def test_pickles_and_code_are_unsafe_and_none_of_it_is_downloaded(mlflow: MlflowServer, fetch: Fetch) -> None:
    mlflow.register("demo")
    mlflow.files |= {f"{mlflow.root('demo', '1')}/model/{name}": b"\x80" for name in ("config.json", "model.pkl")}
    assert error(fetch(LATEST, mlflow=login(mlflow))).class_ == "source_unsafe"
    assert mlflow.downloads() == []
    mlflow.register("coded", DEMO_MODEL, flavour=True)
    path = f"{mlflow.root('coded', '1')}/model/config.json"
    mlflow.files[path] = json.dumps(json.loads(mlflow.files[path]) | {"auto_map": {"AutoModel": "evil.M"}}).encode()
    assert error(fetch({**LATEST, "name": "coded"}, mlflow=login(mlflow))).class_ == "source_unsafe"


@pytest.mark.parametrize("uri", ["file:///etc", "s3://bucket/x", "/etc", "mlflow-artifacts://elsewhere:80/1/x"])
def test_files_that_lie_elsewhere_are_refused_with_what_to_do(mlflow: MlflowServer, fetch: Fetch, uri: str) -> None:
    mlflow.register("demo", DEMO_MODEL, artifact_uri=uri)
    refusal = error(fetch(LATEST, mlflow=login(mlflow)))
    assert (refusal.class_, refusal.retryable) == ("source_not_found", False)
    assert "--serve-artifacts" in refusal.hint
    assert mlflow.downloads() == []
