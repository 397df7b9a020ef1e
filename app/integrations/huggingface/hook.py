"""The Hugging Face Hub: a shared secret in a header; the document is a hint, read again at the Hub before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from app.integrations.shared.hooks import (
    NoCredential,
    Payload,
    Receiver,
    RegistryEvent,
    Text,
    WrongCredential,
    same,
)

HEADER = "x-webhook-secret"
MAIN = "refs/heads/main"


class _Event(Payload):
    action: str = Text
    scope: str = Text


class _Repo(Payload):
    type: str = Text
    name: str = Text
    id: str = Text
    headSha: str | None = Field(None, max_length=64, pattern=r"^\w+$")


class _Ref(Payload):
    ref: str = Text
    newSha: str | None = Field(None, max_length=64, pattern=r"^\w+$")


class _Webhook(Payload):
    id: str = Text


class _Discussion(Payload):
    id: str | None = Field(None, max_length=500)
    title: str | None = Field(None, max_length=2000)


class _Document(Payload):
    event: _Event
    repo: _Repo
    updatedRefs: list[_Ref] = Field([], max_length=20_000, fail_fast=True)
    webhook: _Webhook
    discussion: _Discussion | None = None


class HuggingFaceHook(Receiver):
    """A webhook of the Hub; it has no signature, no timestamp, no id and no order."""

    title: ClassVar[str] = "Hugging Face Hub"
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "event": {"action": "update", "scope": "repo.content"},
        "repo": {
            "type": "model",
            "name": "org/model",
            "id": "621ffdc036468d709f17434d",
            "private": False,
            "headSha": "575db8b7a51b6f85eb06eee540738584589f131c",
        },
        "updatedRefs": [
            {
                "ref": MAIN,
                "oldSha": "ce9a4674fa833a68d5a73ec355f0ea95eedd60b7",
                "newSha": "575db8b7a51b6f85eb06eee540738584589f131c",
            },
        ],
        "webhook": {"id": "6390e855e30d9209411de93b", "version": 3},
    }

    kind: Literal["huggingface"] = "huggingface"

    def headers(self, secret: str, body: bytes, *, now: float) -> dict[str, str]:  # noqa: ARG002
        """Return the secret in a header, as the Hub sends it."""
        return {HEADER: secret, "content-type": "application/json"}

    def verify(
        self,
        secrets: Sequence[str],
        headers: Mapping[str, str],
        body: bytes,  # noqa: ARG002
        *,
        now: float,  # noqa: ARG002
    ) -> None:
        """Compare the header with the secrets."""
        given = headers.get(HEADER, "")
        if not given:
            raise NoCredential(f"The header {HEADER} is missing.")
        if not same(given, secrets):
            raise WrongCredential

    def read(self, headers: Mapping[str, str], document: dict[str, Any]) -> RegistryEvent:  # noqa: ARG002
        """Read a push to a model: a new version for each branch or tag that it moved."""
        payload = _Document.model_validate(document)
        refs = _moved(payload)
        why_not = _why_not(payload, refs)
        source = None if why_not else {"kind": "huggingface", "repo": payload.repo.name}
        shas = sorted(f"{ref.ref}={ref.newSha or ''}" for ref in payload.updatedRefs) or [payload.repo.headSha or ""]
        facts = (payload.webhook.id, payload.repo.id, payload.event.scope, payload.event.action, *shas)
        return RegistryEvent(
            kind=self.kind,
            event=f"{payload.event.scope}.{payload.event.action}",
            what="other" if why_not else "version",
            model=payload.repo.name,
            dedupe_key=" ".join(facts),
            source=source,
            why_not=why_not,
            refs={} if why_not else refs,
            message=payload.discussion.title if payload.discussion else None,
        )


def _moved(payload: _Document) -> dict[str, str]:
    """Return the references that moved to a commit; without a list, the main branch."""
    if not payload.updatedRefs and payload.repo.headSha:
        return {MAIN: payload.repo.headSha}
    return {ref.ref: ref.newSha for ref in payload.updatedRefs if ref.newSha and ref.newSha.strip("0")}


def _why_not(payload: _Document, refs: dict[str, str]) -> str:
    kind, event = payload.repo.type, payload.event
    if kind != "model":
        return f"this is about a {kind}, not a model" if kind in {"dataset", "space", "bucket"} else "this is no model"
    if event.scope != "repo.content":
        known = {"delete": "the repository was deleted", "move": "the repository was moved"}
        about = known.get(event.action, "this changes the repository and not its files")
        return about if event.scope == "repo" else "this changes no files"
    if not refs:
        return "a branch or tag was deleted" if payload.updatedRefs else "no commit is named"
    return ""
