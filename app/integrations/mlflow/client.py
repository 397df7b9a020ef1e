"""MLflow over its REST API: registered models, versions, aliases, runs, and the files that its artifact proxy serves.

MLflow's own client would bring some fifteen packages (Databricks' SDK, Google's login, a telemetry stack) for these
few calls, and no stream of bytes that can be checked on its way.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

import httpx

CHUNK_BYTES: Final = 2**20
PAGE: Final = 200
_API: Final = "/api/2.0/mlflow/"
_ARTIFACTS: Final = "/api/2.0/mlflow-artifacts/artifacts"
_SECONDS: Final = httpx.Timeout(30, read=60)
_UPLOAD_SECONDS: Final = httpx.Timeout(30, read=3000, write=300)
"""The server answers an upload when its own store has the file."""


class MlflowError(Exception):
    """MLflow refused or failed; the text says why, and holds no secret."""

    def __init__(self, message: str, *, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.message, self.status, self.code = message, status, code

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later."""
        return self.status in {0, 408, 425, 429} or self.status >= 500

    @property
    def forbidden(self) -> bool:
        """Whether the login is missing or lacks a right."""
        return self.status in {401, 403}

    @property
    def missing(self) -> bool:
        """Whether the resource does not exist; for an alias the server uses another code."""
        return self.status == 404 or (self.code == "INVALID_PARAMETER_VALUE" and "not found" in self.message)


@dataclass(frozen=True)
class FileInfo:
    """One line of a folder's listing."""

    name: str
    is_folder: bool
    bytes: int


class Mlflow:
    """One server; `login` holds its `tracking_uri` and a `token`, or a `username` and a `password`, or neither."""

    def __init__(self, login: Mapping[str, str]) -> None:
        self._base = login["tracking_uri"].rstrip("/")
        token, user = login.get("token"), login.get("username")
        self._http = httpx.Client(
            base_url=self._base,
            timeout=_SECONDS,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            auth=(user, login.get("password", "")) if user and not token else None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, **params: str | int) -> dict[str, Any]:
        """Ask for a document; raises MlflowError."""
        return self._ask("GET", _API + path, params=params)

    def post(self, path: str, body: Mapping[str, Any], *, method: str = "POST") -> dict[str, Any]:
        """Send a document; raises MlflowError."""
        return self._ask(method, _API + path, json=body)

    def version(self, name: str, version: str) -> dict[str, Any]:
        """Return a version of a registered model."""
        model_version: dict[str, Any] = self.get("model-versions/get", name=name, version=version)["model_version"]
        return model_version

    def by_alias(self, name: str, alias: str) -> dict[str, Any]:
        """Return the version that an alias points at."""
        model_version: dict[str, Any] = self.get("registered-models/alias", name=name, alias=alias)["model_version"]
        return model_version

    def versions(self, where: str, *, order_by: str = "creation_timestamp DESC") -> Iterator[dict[str, Any]]:
        """Yield versions that a filter finds, page by page."""
        yield from self._pages("model-versions/search", "model_versions", filter=where, order_by=order_by)

    def models(self) -> Iterator[dict[str, Any]]:
        """Yield the registered models, newest change first, with their aliases."""
        yield from self._pages("registered-models/search", "registered_models", order_by="last_updated_timestamp DESC")

    def location(self, name: str, version: str) -> str:
        """Return the path of a version's files at the artifact proxy."""
        uri = self.get("model-versions/get-download-uri", name=name, version=version).get("artifact_uri", "")
        return self.proxied(str(uri))

    def proxied(self, uri: str) -> str:
        """Return the path at the artifact proxy that a location of this server stands for; raises MlflowError."""
        parts = urlsplit(uri)
        if parts.scheme != "mlflow-artifacts" or parts.netloc not in {"", urlsplit(self._base).netloc}:
            kept = f"{parts.scheme}:" if parts.scheme else "a plain path"
            raise MlflowError(f"its files are kept at {kept}, not behind the server's artifact proxy", status=400)
        return parts.path.strip("/")

    def listing(self, path: str) -> list[FileInfo]:
        """Return what a folder holds; nothing where there is none."""
        files = self._ask("GET", _ARTIFACTS, params={"path": path}).get("files", [])
        return [FileInfo(str(f["path"]), bool(f.get("is_dir")), int(f.get("file_size") or 0)) for f in files]

    def download(self, path: str) -> Generator[bytes, None, None]:
        """Yield the bytes of a file."""
        with _typed(), self._http.stream("GET", f"{_ARTIFACTS}/{quote(path)}") as answer:
            if answer.status_code != httpx.codes.OK:
                answer.read()
                _check(answer)
            yield from answer.iter_bytes(CHUNK_BYTES)

    def ask_for(self, path: str) -> None:
        """Take the right to read a file, and leave its bytes; raises MlflowError."""
        with closing(self.download(path)) as stream:
            next(stream, None)

    def upload(self, path: str, file: Path) -> None:
        """Send a file."""
        with _typed(), file.open("rb") as source:
            size = {"Content-Length": str(file.stat().st_size)}
            url = f"{_ARTIFACTS}/{quote(path)}"
            answer = self._http.put(url, content=_chunks(source), headers=size, timeout=_UPLOAD_SECONDS)
        _check(answer)

    def _pages(self, path: str, items: str, **params: str) -> Iterator[dict[str, Any]]:
        token = ""
        while True:
            page = self.get(path, **params, max_results=PAGE, **({"page_token": token} if token else {}))
            yield from page.get(items, [])
            token = page.get("next_page_token", "")
            if not token:
                return

    def _ask(self, method: str, path: str, **content: Any) -> dict[str, Any]:  # noqa: ANN401 (httpx's own)
        with _typed():
            answer = self._http.request(method, path, **content)
        _check(answer)
        try:
            document: dict[str, Any] = answer.json() if answer.content else {}
        except ValueError:
            document = {}
        if not isinstance(document, dict) or answer.headers.get("content-type", "").startswith("text/html"):
            raise MlflowError("the answer is not MLflow's: check the tracking URI", status=400)
        return document


def tags_of(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a version, run or model."""
    return {str(tag["key"]): str(tag.get("value", "")) for tag in document.get("tags", [])}


def as_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as the server takes them."""
    return [{"key": key, "value": value} for key, value in tags.items()]


def _chunks(source: Any) -> Iterator[bytes]:  # noqa: ANN401 (an open file)
    while chunk := source.read(CHUNK_BYTES):
        yield chunk


@contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise MlflowError(f"the server did not answer ({type(error).__name__})") from None


def _check(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    try:
        document = json.loads(answer.content)
        code, message = str(document.get("error_code", "")), str(document.get("message", ""))
    except (ValueError, AttributeError):
        code, message = "", ""
    if b"Host header" in answer.content:
        raise MlflowError("the server does not know this host name: start it with --allowed-hosts", status=400)
    # Of longer texts the rest is SQL.
    first = message.splitlines()[0][:300] if message else f"HTTP {answer.status_code}"
    raise MlflowError(first, status=answer.status_code, code=code)
