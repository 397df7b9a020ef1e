"""A result into a repository of the Hugging Face Hub, in one commit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from pydantic import Field

from app.integrations.huggingface.client import no_answer
from app.integrations.huggingface.names import RepoId
from app.integrations.shared.hooks import RegistryEvent
from app.integrations.shared.targets import MANIFEST, TAG, PublishRequest, ResultTarget, TargetRefused


class HubTarget(ResultTarget):
    """A model repository of the Hugging Face Hub; it is made when it is not there. Takes the project's Hub token."""

    kind: Literal["huggingface"] = "huggingface"
    repo: RepoId = Field(description="owner/name")
    revision: str = Field("main", min_length=1, max_length=200, pattern=r"^[\w./-]+$", description="Branch.")
    private: bool = Field(True, description="Of a repository that is made.")

    @property
    def place(self) -> str:
        """The repository."""
        return self.repo

    @classmethod
    def made(cls, event: RegistryEvent) -> Iterator[dict[str, str]]:
        """Yield the repository and branch of an event: a branch holds one model at a time."""
        asked = str((event.source or {}).get("revision") or "main")
        branch = event.ref.removeprefix("refs/heads/") if event.ref else asked
        yield {"kind": "huggingface", "repo": event.model, "revision": branch}

    def publish(self, request: PublishRequest, folder: Path) -> str:
        """Commit the files and return the repository and the commit."""
        token = request.credentials.get("token")
        if not token:
            hint = "Store one with PUT /v1/credentials/huggingface."
            raise TargetRefused("The project has no Hugging Face token.", hint, retryable=False)
        api = HfApi(endpoint=request.credentials.get("endpoint"), token=token)
        with _refusals(self.repo):
            api.create_repo(self.repo, private=self.private, exist_ok=True)
            if self.revision != "main":
                api.create_branch(self.repo, branch=self.revision, exist_ok=True)
            if _is_there(api, self, folder):
                return f"{self.repo}@{api.model_info(self.repo, revision=self.revision).sha}"
            commit = api.upload_folder(
                repo_id=self.repo,
                folder_path=folder,
                revision=self.revision,
                commit_message=f"[{TAG}] Publish {request.job_id}",
            )
        return f"{self.repo}@{commit.oid}"


def _is_there(api: HfApi, target: HubTarget, folder: Path) -> bool:
    """Tell whether an earlier attempt got through: then the repository has this result's manifest."""
    try:
        path = api.hf_hub_download(target.repo, MANIFEST, revision=target.revision, local_dir=folder.parent / "there")
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError):
        return False
    return Path(path).read_bytes() == (folder / MANIFEST).read_bytes()


@contextmanager
def _refusals(repo: str) -> Iterator[None]:
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in {401, 403, 404}:
            raise TargetRefused(
                f"The Hub does not let the project's token write {repo} (HTTP {status}).",
                "Store a token that may write there with PUT /v1/credentials/huggingface.",
                retryable=False,
            ) from None
        raise TargetRefused(
            f"The Hub refused (HTTP {status}).",
            "It is tried again.",
            retryable=status in {0, 408, 409, 412, 429} or status >= 500,
        ) from None
    except Exception as error:
        if not no_answer(error):
            raise
        raise TargetRefused(
            f"The Hub did not answer ({type(error).__name__}).", "It is tried again.", retryable=True
        ) from None
