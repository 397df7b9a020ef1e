"""Every registry's example is taken once, by its own credential only; a newcomer is one file."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.integrations.shared.hooks import NoCredential, Receiver, WrongCredential
from app.main import create_app
from app.services.hooks.receivers import RECEIVERS
from app.settings import Settings

NOW = 1_795_248_000.0
NEWCOMER = '''
from typing import Any, ClassVar, Literal
from app.integrations.shared.hooks import NoCredential, Receiver, RegistryEvent, WrongCredential, same


class Shelf(Receiver):
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
        source = {"kind": "huggingface", "repo": document["book"], "revision": document["edition"]}
        return RegistryEvent(
            kind=self.kind, event="book.printed", what="version", model=document["book"], source=source,
            version=document["edition"], dedupe_key=document["edition"],
        )
'''
USE = """
import importlib, sys
importlib.import_module("app.integrations").__path__.append(sys.argv[1])
import pytest
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", sys.argv[2], "-k", "shelf"]))
"""


@pytest.fixture(params=RECEIVERS)
def receiver(request: pytest.FixtureRequest) -> Receiver:
    return RECEIVERS[request.param]


@pytest.fixture
def client(sqlite_url: str, tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(home=tmp_path, database_url=sqlite_url))) as client:
        yield client


def test_the_example_is_read_as_a_new_version(receiver: Receiver) -> None:
    secret, body = receiver.new_secret(), json.dumps(receiver.EXAMPLE).encode()
    receiver.check_secret(secret)
    headers = receiver.headers(secret, body, now=NOW)
    receiver.verify([receiver.new_secret(), secret], headers, body, now=NOW)
    event = receiver.read(headers, receiver.EXAMPLE)
    assert (event.kind, event.what) == (receiver.kind, "version")
    assert event.model
    assert event.dedupe_key
    assert event.source is not None
    assert event.source["kind"] in {"huggingface", "mlflow", "s3"}
    assert type(event).model_validate(event.model_dump(mode="json")) == event


def test_nothing_but_the_credential_opens(receiver: Receiver) -> None:
    secret, body = receiver.new_secret(), json.dumps(receiver.EXAMPLE).encode()
    headers = receiver.headers(secret, body, now=NOW)
    with pytest.raises(NoCredential):
        receiver.verify([secret], {"content-type": "application/json"}, body, now=NOW)
    for secrets in ([], [receiver.new_secret()]):
        with pytest.raises(WrongCredential):
            receiver.verify(secrets, headers, body, now=NOW)
    if receiver.headers(secret, body + b" ", now=NOW) == headers:
        return  # a secret that signs nothing
    for place in range(0, len(body), 7):  # one flipped bit, anywhere
        flipped = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        with pytest.raises(WrongCredential):
            receiver.verify([secret], headers, flipped, now=NOW)
    for now in (NOW + 301, NOW - 301):
        with pytest.raises(WrongCredential):
            receiver.verify([secret], headers, body, now=now)
    receiver.verify([secret], headers, body, now=NOW + 300)


def test_a_replayed_example_is_taken_once(receiver: Receiver, client: TestClient) -> None:
    source = client.post("/v1/hook-sources", json={"kind": receiver.kind, "name": "a registry"}).json()
    body = json.dumps(receiver.EXAMPLE).encode()
    headers = receiver.headers(source["secret"], body, now=time.time())
    answers = [client.post(source["path"], content=body, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 200]
    first, second = (answer.json() for answer in answers)
    assert (first["duplicate"], second["duplicate"]) == (False, True)
    assert first["delivery_id"] == second["delivery_id"]
    stored = client.get(f"/v1/hook-deliveries/{first['delivery_id']}").json()
    assert stored["body"] == body.decode()
    assert stored["event"]["kind"] == receiver.kind
    assert source["secret"] not in json.dumps(stored)


@pytest.mark.slow
@pytest.mark.deep
def test_a_registry_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf/__init__.py").touch()
    (tmp_path / "shelf/hook.py").write_text(NEWCOMER)
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path), __file__], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
