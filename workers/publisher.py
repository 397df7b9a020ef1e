"""The publisher process: `python -m workers.publisher < request.json` sends one result to one target.

It has the network and the credentials of the project. Sent again, an equal result is recognised by its manifest.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx
from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from app.errors import AppError, StorageError
from app.specs.publish import HubTarget, S3Target
from app.storage.s3 import S3Store
from workers.messages import ErrorInfo, Failed, PublicFile, Published, PublishRequest

MANIFEST = "manifest.json"
TAG = "espalier"
"""Stands in every commit message: our own publications are told from others by it."""


class _Refused(Exception):
    def __init__(self, message: str, hint: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.message, self.hint, self.retryable = message, hint, retryable


def publish(request: PublishRequest, folder: Path) -> str:
    """Send the files in a folder and return a reference to what stands there now."""
    if isinstance(request.target, HubTarget):
        return _to_hub(request, request.target, folder)
    return _to_s3(request, request.target, folder)


def _to_hub(request: PublishRequest, target: HubTarget, folder: Path) -> str:
    token = request.credentials.get("token")
    if not token:
        raise _Refused(
            "The project has no Hugging Face token.", "Store one with PUT /v1/credentials/huggingface.", retryable=False
        )
    api = HfApi(endpoint=request.hf_endpoint, token=token)
    with _hub_refusals(target.repo):
        api.create_repo(target.repo, private=target.private, exist_ok=True)
        if target.revision != "main":
            api.create_branch(target.repo, branch=target.revision, exist_ok=True)
        if _is_there(api, target, folder):
            return f"{target.repo}@{api.model_info(target.repo, revision=target.revision).sha}"
        commit = api.upload_folder(
            repo_id=target.repo, folder_path=folder, revision=target.revision,
            commit_message=f"[{TAG}] Publish {request.job_id}",
        )  # fmt: skip
    return f"{target.repo}@{commit.oid}"


def _is_there(api: HfApi, target: HubTarget, folder: Path) -> bool:
    """Tell whether an earlier attempt got through: then the repository has this result's manifest."""
    try:
        found = api.hf_hub_download(target.repo, MANIFEST, revision=target.revision, local_dir=folder.parent / "there")
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError):
        return False
    return Path(found).read_bytes() == (folder / MANIFEST).read_bytes()


@contextmanager
def _hub_refusals(repo: str) -> Iterator[None]:
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in {401, 403, 404}:
            raise _Refused(
                f"The Hub does not let the project's token write {repo} (HTTP {status}).",
                "Store a token that may write there with PUT /v1/credentials/huggingface.", retryable=False,
            ) from None  # fmt: skip
        raise _Refused(
            f"The Hub refused (HTTP {status}).",
            "It is tried again.",
            retryable=status in {0, 408, 409, 412, 429} or status >= 500,
        ) from None
    except (httpx.HTTPError, ConnectionError, TimeoutError) as error:
        raise _Refused(
            f"The Hub did not answer ({type(error).__name__}).", "It is tried again.", retryable=True
        ) from None


def _to_s3(request: PublishRequest, target: S3Target, folder: Path) -> str:
    if "access_key_id" not in request.credentials:
        raise _Refused("The project has no S3 keys.", "Store them with PUT /v1/credentials/s3.", retryable=False)
    url = urlsplit(target.uri)
    store = S3Store(url.netloc, url.path, endpoint_url=request.s3_endpoint_url, credentials=request.credentials)
    try:
        # The manifest last: who reads it finds everything else.
        for file in sorted(request.files, key=lambda file: file.path == MANIFEST):
            store.put_file(file.path, folder / file.path, file.sha256)
    except StorageError as error:
        final = any(
            word in error.detail for word in ("AccessDenied", "InvalidAccessKeyId", "NoSuchBucket", "Signature")
        )
        hint = "Check the bucket and the keys stored with PUT /v1/credentials/s3."
        raise _Refused(error.detail, hint, retryable=not final) from None
    return f"{target.uri.rstrip('/')}/{MANIFEST}"


def gather(files: list[PublicFile], folder: Path) -> None:
    """Bring the files of a result into a folder: links to what lies on this machine, downloads of the rest."""
    for file in files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        url = urlsplit(file.url)
        if url.scheme == "file":
            path.symlink_to(unquote(url.path))
            continue
        with httpx.stream("GET", file.url, timeout=60) as answer:
            answer.raise_for_status()
            with path.open("wb") as target:
                for chunk in answer.iter_bytes(2**20):
                    target.write(chunk)


def describe(error: Exception) -> ErrorInfo:
    """Say why nothing was published."""
    if isinstance(error, _Refused):
        message, hint, retryable = error.message, error.hint, error.retryable
    elif isinstance(error, OSError | httpx.HTTPError | AppError):
        message, hint, retryable = f"The result could not be read ({type(error).__name__}).", "It is tried again.", True
    else:
        message, hint, retryable = f"Unexpected {type(error).__name__}.", "This is a fault of the service.", False
    return ErrorInfo(class_="publish_failed", retryable=retryable, phase="publishing", message=message, hint=hint)


def main() -> int:
    """Read one request from standard input, publish, and say how it went."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is a log line, not a message
    answer: Published | Failed
    try:
        request = PublishRequest.model_validate_json(sys.stdin.readline())
        folder = Path(request.workspace) / "publish" / request.job_id / "files"
        gather(request.files, folder)
        answer = Published(target=request.target.model_dump(mode="json"), reference=publish(request, folder))
    except Exception as error:  # noqa: BLE001 (the one place where every failure becomes a message)
        if not isinstance(error, _Refused):
            traceback.print_exc()
        answer = Failed(error=describe(error))
    pipe.write(answer.model_dump_json(by_alias=True) + "\n")
    pipe.flush()
    return 0 if isinstance(answer, Published) else 1


if __name__ == "__main__":
    sys.exit(main())
