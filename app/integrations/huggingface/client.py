"""The Hugging Face Hub as the API reads it: without a token, within one deadline, a few bytes of each file.

Credentials reach the fetcher and the publisher alone, so that a gated repository shows its metadata here and no file.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urljoin

from app.platform import outbound
from app.settings_rules import Network, networks
from espalier.errors import SourceGated, SourceNotFound

PUBLIC: Final = "https://huggingface.co"
SECONDS: Final = 8.0
"""For all that is asked about one repository: a person waits."""
MAX_METADATA_BYTES: Final = 8 * 2**20
REDIRECTS: Final = 4
"""Large files lie behind one or two."""


class HubSilentError(Exception):
    """The Hub did not answer in time, or not as a Hub does; the text says how."""


@dataclass(frozen=True)
class Repository:
    """The metadata of a repository at a revision."""

    id: str
    commit: str
    sizes: Mapping[str, int]
    """Name of a file -> its bytes."""
    licence: str | None
    parameters: int | None
    """As the Hub counts them in safetensors headers."""
    model_type: str | None
    architecture: str | None


class Hub:
    """A client of the Hub, with one deadline for all of its calls."""

    def __init__(self, endpoint: str | None, *, seconds: float = SECONDS) -> None:
        """`endpoint`: the operator's mirror, which may lie in a private network; None asks the public Hub."""
        self._endpoint = (endpoint or PUBLIC).rstrip("/")
        self._allowed = networks_of(self._endpoint) if endpoint else ()
        self._deadline = time.monotonic() + seconds

    def repository(self, repo: str, revision: str) -> Repository:
        """Ask for a repository; raises SourceNotFound, SourceGated or HubSilentError."""
        path = f"/api/models/{quote(repo)}/revision/{quote(revision, safe='')}?blobs=true"
        reply = self._get(f"{self._endpoint}{path}", {}, MAX_METADATA_BYTES)
        _refuse(reply, repo)
        try:
            return _read(repo, json.loads(reply.body))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise HubSilentError("its answer is not a Hub's") from None

    def file(self, repository: Repository, name: str, *, start: int = 0, count: int) -> bytes:
        """Read at most so many bytes of a file at the repository's commit; raises as `repository` does."""
        path = f"/{quote(repository.id)}/resolve/{repository.commit}/{quote(name)}"
        reply = self._get(f"{self._endpoint}{path}", {"Range": f"bytes={start}-{start + count - 1}"}, start + count)
        _refuse(reply, repository.id)
        # A server that knows no ranges sends the file from its beginning.
        return reply.body[:count] if reply.status == 206 else reply.body[start : start + count]

    def _get(self, url: str, headers: Mapping[str, str], most_bytes: int) -> outbound.Reply:
        for _ in range(REDIRECTS + 1):
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise HubSilentError(f"it took longer than {SECONDS:g} seconds")
            try:
                target = outbound.parse(url)
                reply = outbound.get(
                    target,
                    {"User-Agent": "espalier", **headers},
                    most_bytes=most_bytes,
                    allowed=self._allowed,
                    seconds=left,
                )
            except outbound.ForbiddenAddress as error:
                raise HubSilentError(str(error)) from error
            except (OSError, http.client.HTTPException) as error:
                raise HubSilentError(type(error).__name__) from error
            if reply.status not in {301, 302, 303, 307, 308}:
                return reply
            url = urljoin(url, reply.headers.get("location", ""))
        raise HubSilentError("it redirects without end")


def networks_of(endpoint: str) -> tuple[Network, ...]:
    """Return the networks of the operator's own mirror; a loopback one may name itself in several ways."""
    try:
        target = outbound.parse(endpoint)
        resolved = outbound.resolve(target, networks("0.0.0.0/0,::/0"))
    except (outbound.ForbiddenAddress, OSError):
        return ()  # the first call says why
    addresses = [ipaddress.ip_address(address) for address in resolved]
    own = tuple(ipaddress.ip_network(address) for address in addresses)
    return own + (networks("127.0.0.0/8,::1/128") if any(a.is_loopback for a in addresses) else ())


def _refuse(reply: outbound.Reply, repo: str) -> None:
    code = reply.headers.get("x-error-code", "")
    if code == "GatedRepo":
        raise SourceGated(
            f"{repo} is gated, and the API asks without a token.",
            hint="A job reads it with the project's Hub credential, or with ESPALIER_HF_TOKEN.",
        )
    if code == "RevisionNotFound":
        raise SourceNotFound(f"{repo} has no such revision.", hint="Name a branch, a tag or a commit.")
    if reply.status in {401, 403, 404}:
        raise SourceNotFound(
            f"The Hub shows no repository {repo} to the public.",
            hint="If it is private, a job reads it with the project's Hub credential.",
        )
    if reply.status not in {200, 206}:
        raise HubSilentError(f"it answers with status {reply.status}")


def _read(repo: str, document: Mapping[str, Any]) -> Repository:
    card, config, counted = (document.get(name) or {} for name in ("cardData", "config", "safetensors"))
    named = (tag.removeprefix("license:") for tag in document.get("tags") or [] if tag.startswith("license:"))
    licence = card.get("license") or next(named, None)
    return Repository(
        id=repo,
        commit=str(document["sha"]),
        sizes={str(file["rfilename"]): int(file.get("size") or 0) for file in document.get("siblings") or []},
        licence=str(licence)[:64] if licence else None,
        parameters=int(counted["total"]) if counted.get("total") else None,
        model_type=config.get("model_type") if isinstance(config.get("model_type"), str) else None,
        architecture=next((name for name in config.get("architectures") or [] if isinstance(name, str)), None),
    )


def no_answer(error: Exception) -> bool:
    """Tell whether an error of the Hub's client says that the other side did not answer."""
    # The client's HTTP library is its own affair and has changed before; its errors name it.
    library = type(error).__module__
    return library.startswith(("httpx", "httpcore")) or isinstance(error, ConnectionError | TimeoutError)
