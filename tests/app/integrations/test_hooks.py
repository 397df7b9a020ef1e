"""What registries send, read into events: the contract's vectors and every case of their documents."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from pydantic import ValidationError

from app.integrations.huggingface.hook import HuggingFaceHook
from app.integrations.mlflow.hook import MLflowHook
from app.integrations.shared.hooks import RegistryEvent, WrongCredential
from app.services.hooks.receivers import RECEIVERS

HUB, MLFLOW = HuggingFaceHook(), MLflowHook()
VECTOR_BODY = (
    b'{"entity": "model_version", "action": "created", "timestamp": "2026-11-21T08:00:00+00:00", "data": {"name": "m",'
    b' "version": "1", "source": "models:/m-abc", "run_id": "r1", "tags": {}, "description": null}}'
)
VECTOR_HEADERS = {
    "x-mlflow-signature": "v1,RIEaWvNQYwoMflg68KYNar61WlB8T5K1MMjnD4PA4pg=",
    "x-mlflow-timestamp": "1795248000",
    "x-mlflow-delivery-id": "11111111-2222-3333-4444-555555555555",
}
OUT_BODY = b'{"type":"job.succeeded","timestamp":"2026-11-21T08:00:00Z","data":{"id":"job_01"}}'
OUT_HEADERS = {
    "webhook-id": "msg_01",
    "webhook-timestamp": "1795248000",
    "webhook-signature": "v1,80QdRAL3QoxjzIdSpgHMUomyKRQmVWlMGLlE4taPpt4=",
}
NEW = "575db8b7a51b6f85eb06eee540738584589f131c"
ZERO = "0" * 40


def hub(action: str = "update", scope: str = "repo.content", type_: str = "model", **fields: Any) -> RegistryEvent:
    document = copy.deepcopy(HUB.EXAMPLE)
    document["event"] = {"action": action, "scope": scope}
    document["repo"]["type"] = type_
    return HUB.read({}, {**document, **fields})


def test_both_vectors_of_the_contract_verify() -> None:
    MLFLOW.verify(["my-mlflow-secret"], VECTOR_HEADERS, VECTOR_BODY, now=1795248000)
    secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
    RECEIVERS["generic"].verify([secret], OUT_HEADERS, OUT_BODY, now=1795248000)
    event = MLFLOW.read(VECTOR_HEADERS, json.loads(VECTOR_BODY))
    assert event.source == {"kind": "mlflow", "name": "m", "version": "1"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"x-mlflow-signature": "v1,RIEaWvNQYwoMflg68KYNar61WlB8T5K1MMjnD4PA4pG="},
        {"x-mlflow-signature": "RIEaWvNQYwoMflg68KYNar61WlB8T5K1MMjnD4PA4pg="},
        {"x-mlflow-timestamp": "1795248001"},
        {"x-mlflow-timestamp": "soon"},
        {"x-mlflow-timestamp": ""},
        {"x-mlflow-delivery-id": "11111111-2222-3333-4444-555555555556"},
        {"x-mlflow-delivery-id": ""},
        {"x-mlflow-signature": "v1,\u00e9"},
    ],
)
def test_an_mlflow_header_that_is_not_the_signed_one_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(WrongCredential):
        MLFLOW.verify(["my-mlflow-secret"], VECTOR_HEADERS | wrong, VECTOR_BODY, now=1795248000)


@pytest.mark.parametrize(
    ("event", "refs"),
    [
        (hub(), {"refs/heads/main": NEW}),
        (hub(updatedRefs=[]), {"refs/heads/main": NEW}),  # no list: what the main branch is now
        (hub(updatedRefs=[{"ref": "refs/pr/1", "newSha": NEW}]), {"refs/pr/1": NEW}),
        (hub(updatedRefs=[{"ref": "refs/tags/v1", "oldSha": None, "newSha": NEW}]), {"refs/tags/v1": NEW}),
        (
            hub(updatedRefs=[{"ref": "refs/heads/a", "newSha": None}, {"ref": "refs/heads/b", "newSha": NEW}]),
            {"refs/heads/b": NEW},
        ),
    ],
)
def test_a_push_moves_references(event: RegistryEvent, refs: dict[str, str]) -> None:
    assert (event.what, event.refs) == ("version", refs)
    ref = next(iter(refs))
    pinned = event.at(ref)
    assert pinned.source == {"kind": "huggingface", "repo": "org/model", "revision": NEW}
    assert (pinned.ref, pinned.references) == (ref, (f"org/model@{NEW}",))


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (hub("delete", "repo", updatedRefs=[]), "was deleted"),
        (hub("move", "repo", updatedRefs=[], movedTo={"name": "org/new"}), "was moved"),
        (hub("create", "repo", updatedRefs=[]), "not its files"),
        (hub("update", "repo.config"), "changes no files"),
        (hub("create", "discussion", discussion={"id": "1", "title": "a pull request"}), "changes no files"),
        (hub(type_="dataset"), "a dataset"),
        (hub(type_="bucket", updatedFiles=[{"path": f"f{n}"} for n in range(10_000)]), "a bucket"),
        (hub(type_="something"), "no model"),
        (hub(updatedRefs=[{"ref": "refs/heads/x", "newSha": None}]), "branch or tag was deleted"),
        (hub(updatedRefs=[{"ref": "refs/heads/x", "newSha": ZERO}]), "branch or tag was deleted"),
    ],
)
def test_what_brings_no_new_version_says_why(event: RegistryEvent, why: str) -> None:
    assert why in event.why_not
    assert (event.what, event.source) == ("other", None)


def test_hub_events_are_told_apart_by_what_the_contract_names() -> None:
    other = "1" * 40
    events = [
        hub(),
        hub(webhook={"id": "another"}),
        hub("create"),
        hub(scope="repo"),
        hub(updatedRefs=[{"ref": "refs/heads/main", "newSha": other}]),
        hub(updatedRefs=[]),
        hub(updatedRefs=[], repo={**HUB.EXAMPLE["repo"], "headSha": other}),
    ]
    assert len({event.dedupe_key for event in events}) == len(events)
    assert hub().dedupe_key == hub(anything="else").dedupe_key


@pytest.mark.parametrize(
    ("entity", "action", "data", "what", "subject"),
    [
        ("model_version", "created", {"version": "1", "tags": {"a": "b"}}, "version", None),
        ("model_version", "created", {"version": 1, "tags": None}, "version", None),
        ("model_version_alias", "created", {"version": "2", "alias": "champion"}, "alias", "alias m@champion"),
        ("model_version_alias", "deleted", {"alias": "champion"}, "other", "alias m@champion"),
        ("model_version_tag", "set", {"version": "2", "key": "a", "value": "b"}, "tag", "tag m/2 a"),
        ("model_version_tag", "deleted", {"version": "2", "key": "a"}, "other", None),
        ("registered_model", "created", {"tags": {}}, "other", None),
        ("prompt", "created", {}, "other", None),
    ],
)
def test_mlflow_events(entity: str, action: str, data: dict[str, Any], what: str, subject: str | None) -> None:
    event = MLFLOW.read({}, {"entity": entity, "action": action, "data": {"name": "m", **data}})
    assert (event.event, event.what, event.subject) == (f"{entity}.{action}", what, subject)
    if what == "other":
        assert event.source is None
        assert event.why_not
    else:
        assert event.source == {"kind": "mlflow", "name": "m", "version": str(data["version"])}
        assert event.references == (f"models:/m/{data['version']}",)


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        ("huggingface", {}),
        ("huggingface", {**HUB.EXAMPLE, "updatedRefs": "main"}),
        ("huggingface", {**HUB.EXAMPLE, "repo": {**HUB.EXAMPLE["repo"], "headSha": "../.."}}),
        ("mlflow", {"entity": "model_version", "action": "created", "data": {"name": 1}}),
        ("mlflow", {"entity": "model_version", "action": "created", "data": {"name": "m", "version": "../1"}}),
        ("generic", {"model": {"kind": "local", "path": "/etc"}}),
        ("generic", {"model": {"kind": "huggingface"}}),
        ("generic", {"model": {"kind": "huggingface", "repo": "a/b"}, "event": "a b"}),
    ],
)
def test_what_is_not_the_registrys_document_is_refused(kind: str, document: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RECEIVERS[kind].read({}, document)
