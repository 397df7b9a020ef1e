"""A result into a repository of the Hugging Face Hub, in one commit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from app.integrations.shared.targets import MANIFEST, TAG, PublishRequest, Refused
from espalier.recipe.publish import HubTarget


def publish(request: PublishRequest, target: HubTarget, folder: Path) -> str:
    """Commit the files and return the repository and the commit."""
    token = request.credentials.get("token")
    if not token:
        raise Refused(
            "The project has no Hugging Face token.", "Store one with PUT /v1/credentials/huggingface.", retryable=False
        )
    api = HfApi(endpoint=request.hf_endpoint, token=token)
    with _refusals(target.repo):
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
def _refusals(repo: str) -> Iterator[None]:
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in {401, 403, 404}:
            raise Refused(
                f"The Hub does not let the project's token write {repo} (HTTP {status}).",
                "Store a token that may write there with PUT /v1/credentials/huggingface.", retryable=False,
            ) from None  # fmt: skip
        raise Refused(
            f"The Hub refused (HTTP {status}).",
            "It is tried again.",
            retryable=status in {0, 408, 409, 412, 429} or status >= 500,
        ) from None
    except (httpx.HTTPError, ConnectionError, TimeoutError) as error:
        raise Refused(
            f"The Hub did not answer ({type(error).__name__}).", "It is tried again.", retryable=True
        ) from None
