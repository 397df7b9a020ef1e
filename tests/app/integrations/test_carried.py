"""What a model takes along arrives whole from every source, and counts in what names its content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.storage.s3 import S3Store
from tests.app.integrations.fetches import Fetch, error, one
from tests.fixtures.library.carried import CARRIED, LEFT_BEHIND, TEMPLATES, files_below, model_with
from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.servers.hub import Hub
from tests.fixtures.servers.mlflow import MlflowServer, mlflow
from workers.messages import AnyMessage, Fetched, Resolved

__all__ = ["mlflow"]

KEYS = {"access_key_id": "test", "secret_access_key": "test"}
Read = Callable[[Path], list[AnyMessage]]


@pytest.fixture(params=["local", "upload", "hub", "s3", "mlflow", "mlflow flavour"])
def read(request: pytest.FixtureRequest, fetch: Fetch) -> Read:
    """Put a folder where a source finds it, and fetch it."""
    sources: dict[str, Callable[[Path], tuple[dict[str, Any], dict[str, Any]]]] = {
        "local": lambda folder: ({"kind": "local", "path": str(folder)}, {}),
        "upload": _uploaded,
        "hub": lambda folder: _at_the_hub(request.getfixturevalue("hub"), folder),
        "s3": lambda folder: _in_a_bucket(
            request.getfixturevalue("s3_store"), request.getfixturevalue("s3_server"), folder
        ),
        "mlflow": lambda folder: _registered(request.getfixturevalue("mlflow"), folder, flavour=False),
        "mlflow flavour": lambda folder: _registered(request.getfixturevalue("mlflow"), folder, flavour=True),
    }

    def run(folder: Path) -> list[AnyMessage]:
        source, fields = sources[request.param](folder)
        return fetch(source, **fields)

    return run


def _uploaded(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    files = [
        {
            "name": name,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "parts": [(folder / name).as_uri()],
        }
        for name, data in files_below(folder).items()
        if name not in LEFT_BEHIND
    ]
    return {"kind": "upload", "upload_id": "upl_1"}, {"uploads": {"upl_1": {"files": files}}}


def _at_the_hub(hub: Hub, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    hub.add_model("org/model", DEMO_MODEL).files = files_below(folder)
    return {"kind": "huggingface", "repo": "org/model"}, {}


def _in_a_bucket(store: S3Store, server: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    for name, data in files_below(folder).items():
        store.put_bytes(f"carried/{name}", data)
    uri = f"s3://{store.bucket}/{store.prefix}carried"
    return {"kind": "s3", "uri": uri}, {"s3": {**KEYS, "endpoint_url": server}}


def _registered(server: MlflowServer, folder: Path, *, flavour: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    version = server.register("demo", folder, flavour=flavour)
    source = {"kind": "mlflow", "name": "demo", "version": version}
    return source, {"mlflow": {"tracking_uri": server.url}}


def test_everything_arrives_and_nothing_else(read: Read, tmp_path: Path) -> None:
    folder = model_with(tmp_path / "roots" / "model", DEMO_MODEL, {**CARRIED, **LEFT_BEHIND})
    fetched = one(read(folder), Fetched)
    assert isinstance(fetched, Fetched)
    arrived = files_below(Path(fetched.model_dir))
    config = arrived.pop("config.json")  # written anew from what is known
    assert config
    assert arrived == {n: d for n, d in files_below(folder).items() if n not in LEFT_BEHIND and n != "config.json"}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_counts_in_the_revision(name: str, fetch: Fetch, tmp_path: Path) -> None:
    def revision() -> str:
        resolved = one(fetch({"kind": "local", "path": str(folder)}), Resolved)
        assert isinstance(resolved, Resolved)
        return resolved.revision

    folder = model_with(tmp_path / "roots" / "model", DEMO_MODEL, CARRIED)
    before = revision()
    (folder / name).write_bytes(b"{{ other }}")
    assert revision() != before


@pytest.mark.parametrize(
    ("name", "data", "word"),
    [
        ("chat_template.jinja", b"x" * (2**20 + 1), "1 MiB"),
        ("additional_chat_templates/a.jinja", b"x" * (2**20 + 1), "1 MiB"),
        ("tokenizer.model", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("tokenizer.model", b"\x80\x04pickle", "pickle"),
    ],
)
def test_a_small_file_that_is_none_is_refused_by_name(
    name: str, data: bytes, word: str, fetch: Fetch, tmp_path: Path
) -> None:
    folder = model_with(tmp_path / "roots" / "model", DEMO_MODEL, {name: data})
    refusal = error(fetch({"kind": "local", "path": str(folder)}))
    assert (refusal.class_, refusal.module, word in refusal.message) == ("source_unsafe", name, True)


def test_a_template_that_links_out_of_the_roots_is_refused(fetch: Fetch, tmp_path: Path) -> None:
    folder = model_with(tmp_path / "roots" / "model", DEMO_MODEL, {})
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "a.jinja").write_text("secret")
    (folder / "additional_chat_templates").symlink_to(tmp_path / "secrets")
    assert error(fetch({"kind": "local", "path": str(folder)})).class_ == "source_not_found"
