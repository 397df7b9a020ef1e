"""An outside system is one file: a source, or a registry that is heard, asked and published to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.suite.scratch_copy import scratch_copy

SOURCE = '''
"""A folder that is known by a name alone."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from app.integrations.shared.digests import remembered_content_sha256
from app.integrations.shared.sources import Access, AtHand, ModelSource
from espalier.errors import SourceNotFound


class FolderOf(ModelSource):
    """A folder below the first root."""

    title: ClassVar[str] = "a folder of somebody"

    kind: Literal["folder_of"] = "folder_of"
    name: str = Field(max_length=50, pattern=r"^\\w+$")

    @property
    def model_name(self):
        return f"folder/{self.name}"

    def resolve(self, access: Access):
        folder = access.roots[0] / self.name
        if not folder.is_dir():
            raise SourceNotFound("There is no folder of this name.")
        return remembered_content_sha256(folder, access.cache_dir)

    def fetch(self, revision, access: Access):
        return access.roots[0] / self.name

    def facts(self, at_hand: AtHand):
        return at_hand.probe(at_hand.settings.roots[0] / self.name, at_hand.settings.roots)
'''
USE_SOURCE = """
import json
from pathlib import Path
from fastapi.testclient import TestClient
from app.bodies.job import JobRequest
from app.main import create_app
from app.settings import Settings
from tests.fixtures.library.tiny_models import write_tiny_model
from workers import fetcher
from workers.messages import Fetched, FetchRequest, Resolved
root = Path(sys.argv[1])
write_tiny_model(root / "models/tiny")
body = {
    "source": {"kind": "folder_of", "name": "tiny"},
    "spec": {"prune": {"method": "magnitude", "sparsity": 0.5}, "evaluate": {"perplexity": []}},
}
app = create_app(Settings(home=root / "home", database_url=sys.argv[2], local_roots=str(root / "models")))
assert app.openapi()["components"]["schemas"]["FolderOf"]["properties"]["name"]["maxLength"] == 50
with TestClient(app) as client:
    made = client.post("/v1/jobs", json=body)
    assert made.status_code == 202, made.text
    job = client.get(f"/v1/jobs/{made.json()['id']}").json()
    assert job["resolved_spec"]["calibration"]["sequence_length"] > 0
    listed = client.get("/v1/jobs", params={"model": "folder/tiny"}).json()["items"]
    assert [item["id"] for item in listed] == [job["id"]]
    seen = client.post("/v1/models/resolve", json={"source": body["source"]}).json()
    assert (seen["resolved"], seen["supported"], seen["model_type"]) == (True, True, "llama"), seen
    assert client.post("/v1/jobs", json={**body, "source": {"kind": "folder_of"}}).status_code == 422
    form = client.get("/portal/new-job").text
    assert "a folder of somebody" in form
    assert "folder_of tiny" in client.get(f"/portal/jobs/{made.json()['id']}").text


def fetch(name):
    workspace = root / f"workspace-{name}"
    workspace.mkdir()
    request = FetchRequest(
        job=JobRequest.model_validate_json(json.dumps({**body, "source": {"kind": "folder_of", "name": name}})),
        cache_dir=str(root / "cache"), cache_max_bytes=2**30, workspace=str(workspace), roots=[str(root / "models")],
    )
    said = []
    return fetcher.serve(request.model_dump_json(), said.append), said


status, said = fetch("tiny")
assert status == 0, said
model = next(Path(message.model_dir) for message in said if isinstance(message, Fetched))
assert (model / "model.safetensors").is_file()
status, said = fetch("nobody")
assert (status, said[-1].error.class_) == (1, "source_not_found")
"""
REGISTRY = '''
"""A shelf: a folder whose books are models."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from app.integrations.shared.hooks import NoCredential, RegistryEvent, WrongCredential, same
from app.integrations.shared.logins import Login, Secret
from app.integrations.shared.polling import Holdings, PolledReceiver
from app.integrations.shared.targets import PublishRequest, TargetRefused, ResultTarget


def printed(book, edition):
    return RegistryEvent(
        kind="shelf", event="book.printed", what="version", model=book, version=edition, dedupe_key=f"{book} {edition}",
        source={"kind": "huggingface", "repo": book, "revision": edition}, references=(f"shelf:{book}/{edition}",),
    )


class ShelfLogin(Login):
    """The key of the shelf."""

    kind: ClassVar[str] = "shelf"
    title: ClassVar[str] = "key"
    about: ClassVar[str] = "Keep the key."

    key: Secret

    def hint(self):
        return ""

    @classmethod
    def server(cls, settings):
        return {"folder": str(settings.home / "shelf")}


class ShelfTarget(ResultTarget):
    """A book on the shelf."""

    kind: Literal["shelf"] = "shelf"
    book: str = Field(max_length=100)

    @property
    def place(self):
        return self.book

    def publish(self, request: PublishRequest, folder: Path):
        if request.credentials.get("key") != "opensesame":
            raise TargetRefused("The shelf is locked.", "Bring the key.", retryable=False)
        place = Path(request.credentials["folder"]) / self.book
        place.mkdir(parents=True)
        for file in request.files:
            (place / file.path).write_bytes((folder / file.path).read_bytes())
        return f"shelf:{self.book}/1"


class Held(Holdings):
    def __init__(self, books):
        self._books = books

    def new_events(self, cursor):
        return [printed(book, "1") for book in self._books if book not in cursor.get("books", [])]

    def cursor(self, cursor):
        return {"books": self._books}


class ShelfHook(PolledReceiver):
    """A registry that nobody has."""

    title: ClassVar[str] = "Shelf"
    EXAMPLE: ClassVar[dict[str, Any]] = {"book": "org/model", "edition": "3"}

    kind: Literal["shelf"] = "shelf"

    def headers(self, secret, body, *, now):
        return {"x-shelf": secret}

    def verify(self, secrets, headers, body, *, now):
        if "x-shelf" not in headers:
            raise NoCredential
        if not same(headers["x-shelf"], secrets):
            raise WrongCredential

    def read(self, headers, document):
        return printed(document["book"], document["edition"])

    def poll(self, login, cursor, *, made_at):
        assert login["key"] == "opensesame"
        return Held(["org/found"])
'''
USE_REGISTRY = """
import json
from pathlib import Path
from fastapi.testclient import TestClient
from app.main import create_app
from app.settings import Settings
from app.services.hooks.evaluation import evaluate_next
from tests.fixtures.service import rows
from workers.background.registries import RegistrySweep
from workers.supervisor.publishing import Publisher
root = Path(sys.argv[1])
settings = Settings(home=root / "home", database_url=sys.argv[2], registry_sweep_seconds=60)
target = {"kind": "shelf", "book": "small"}
source = {"kind": "huggingface", "repo": "org/model", "revision": "main"}
spec = {"prune": {"method": "wanda", "sparsity": 0.5}, "output": {"publish": [target]}}
app = create_app(settings)
assert {"ShelfTarget", "ShelfLogin"} <= set(app.openapi()["components"]["schemas"])
with TestClient(app) as client:
    resources = client.app.state.resources
    made = client.post("/v1/jobs", json={"source": source, "spec": spec})
    assert made.status_code == 202, made.text
    assert made.json()["warnings"][0]["code"] == "no_credential", made.text
    assert "needs the project's key" in made.json()["warnings"][0]["text"]
    job = made.json()["id"]
    rows.start(resources.database, job)
    rows.publish(resources.database, resources.store, job, {"config.json": b"{}", "manifest.json": b"{}"})

    def publish():
        sent = client.post(f"/v1/jobs/{job}/publications", json=target)
        assert sent.status_code == 202, sent.text
        assert Publisher(resources.database, resources.store, settings).work_once()
        return client.get(f"/v1/jobs/{job}/publications").json()["items"][0]

    found = publish()
    assert (found["state"], found["error"]["message"]) == ("failed", "The shelf is locked."), found
    stored = client.put("/v1/credentials/shelf", json={"key": "opensesame"})
    assert stored.status_code == 200, stored.text
    found = publish()
    assert (found["state"], found["reference"]) == ("succeeded", "shelf:small/1"), found
    assert (settings.home / "shelf/small/manifest.json").read_bytes() == b"{}"
    event = client.get(f"/v1/jobs/{job}/events").json()["items"][-1]
    assert event["data"] == {"kind": "shelf", "target": "small", "reference": "shelf:small/1"}, event

    hook = client.post("/v1/hook-sources", json={"kind": "shelf", "name": "mine"}).json()
    rule = {"name": "all", "source_id": hook["id"], "mode": "propose", "template": {"spec": spec}}
    assert client.post("/v1/rules", json=rule).status_code == 201

    def deliver(book, edition):
        body = json.dumps({"book": book, "edition": edition})
        told = client.post(hook["path"], content=body, headers={"x-shelf": hook["secret"]}).json()
        assert evaluate_next(resources.database, settings) is not None
        found = client.get(f"/v1/hook-deliveries/{told['delivery_id']}").json()
        return [verdict["outcome"] for verdict in found["verdicts"]]

    assert deliver("org/model", "3") == ["proposal"]
    assert deliver("small", "1") == ["ignored"]  # we made it
    assert client.post(hook["path"], content="{}", headers={"x-shelf": "wrong"}).status_code == 403
    assert RegistrySweep(resources.database, settings).poll_once() == 1
    heard = client.get("/v1/hook-deliveries").json()["items"][0]
    assert (heard["event"]["model"], heard["via"]) == ("org/found", "reconciliation"), heard
    assert "opensesame" not in json.dumps(client.get(f"/v1/jobs/{job}/publications").json())
"""


@pytest.mark.deep
def test_a_source_is_one_file(tmp_path: Path, sqlite_url: str) -> None:
    copy = scratch_copy(tmp_path / "copy")
    (copy.root / "app/integrations/somebody").mkdir()
    copy.add({"app/integrations/somebody/__init__.py": "", "app/integrations/somebody/source.py": SOURCE})
    copy.run(USE_SOURCE, str(tmp_path), sqlite_url)


@pytest.mark.deep
def test_a_registry_that_is_heard_asked_and_published_to_is_one_file(tmp_path: Path, sqlite_url: str) -> None:
    copy = scratch_copy(tmp_path / "copy")
    (copy.root / "app/integrations/shelf").mkdir()
    copy.add({"app/integrations/shelf/__init__.py": "", "app/integrations/shelf/registry.py": REGISTRY})
    copy.run(USE_REGISTRY, str(tmp_path), sqlite_url)
