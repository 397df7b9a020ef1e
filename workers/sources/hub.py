"""The Hugging Face Hub over HTTP: a revision to a commit, files into the cache, refusals in our words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import tqdm

from app.errors import SourceGated, SourceNotFound
from workers.sources.base import Access, Unreachable, locked
from workers.sources.cache import COMPLETE, used_now
from workers.sources.digests import read_note, sha256_of, write_whole

RepoType = Literal["model", "dataset"]
_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class RepoFile:
    """One file of a repository at a commit."""

    name: str
    bytes: int
    sha256: str | None
    """Of large files, which the Hub names by their content."""


@dataclass(frozen=True)
class Repo:
    """A repository at a commit."""

    type: RepoType
    id: str
    commit: str
    files: tuple[RepoFile, ...]
    tags: tuple[str, ...] = ()
    """Those of its card among them."""

    def file(self, name: str) -> RepoFile | None:
        """The file of this name."""
        return next((file for file in self.files if file.name == name), None)


def look_up(repo_type: RepoType, repo_id: str, revision: str, access: Access) -> Repo:
    """Resolve a branch, tag or commit and list its files."""
    api = HfApi(endpoint=access.hf_endpoint, token=access.hf_token or False)
    with refusals(repo_id):
        ask = api.model_info if repo_type == "model" else api.dataset_info
        info = ask(repo_id, revision=revision, files_metadata=True, timeout=_TIMEOUT_SECONDS)
    if info.sha is None:
        raise SourceNotFound(f"The Hub names no commit for {repo_id}.")
    files = tuple(
        RepoFile(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else None) for file in info.siblings or []
    )
    return Repo(repo_type, repo_id, info.sha, files, tuple(info.tags or ()))


def download(repo: Repo, names: Sequence[str], access: Access) -> Path:
    """Return a folder with the named files of a repository; complete folders are kept by commit.

    What is large is verified against the sha256 that the Hub promised.
    """
    place = hashlib.sha256(f"{access.hf_endpoint}|{repo.type}|{repo.id}".encode()).hexdigest()[:16]
    folder = access.cache_dir / "hub" / place / repo.commit
    wanted = [file for file in repo.files if file.name in set(names)]
    with locked(folder):
        note = folder / COMPLETE
        noted = read_note(note)
        have = set(noted) if isinstance(noted, list) else set()
        total, before = sum(file.bytes for file in wanted), 0
        for file in wanted:
            if file.name not in have:
                _download(repo, file, folder, access, _counter(before, total, access.progress))
                have.add(file.name)
                write_whole(note, json.dumps(sorted(have)).encode())
            before += file.bytes
            access.progress(before, total)
        if note.is_file():
            used_now(note)
    return folder


def _download(repo: Repo, file: RepoFile, folder: Path, access: Access, counter: type[Any]) -> None:
    with refusals(repo.id):
        path = hf_hub_download(
            repo.id, file.name, repo_type=repo.type, revision=repo.commit, local_dir=folder,
            endpoint=access.hf_endpoint, token=access.hf_token or False, tqdm_class=counter,
        )  # fmt: skip
    if file.sha256 is not None and sha256_of(Path(path)) != file.sha256:
        Path(path).unlink()
        raise Unreachable(f"{file.name} arrived damaged.", hint="The job tries again.", module=file.name)


def _counter(before: int, total: int, progress: Callable[[int, int], None]) -> type[Any]:
    """A progress bar that shows nothing and tells how many bytes have come."""

    class Counter(tqdm):  # type: ignore[type-arg, misc, unused-ignore]
        came = 0

        def update(self, n: float | None = 1) -> bool | None:
            self.came += int(n or 0)
            progress(min(before + self.came, total), total)
            return None

    return Counter


@contextmanager
def refusals(repo_id: str) -> Iterator[None]:
    """Turn what the Hub's client raises into our errors."""
    try:
        yield
    except GatedRepoError as error:
        raise _gated(repo_id) from error
    except RevisionNotFoundError as error:
        raise SourceNotFound(f"{repo_id} has no such revision.", hint="Name a branch, a tag or a commit.") from error
    except RepositoryNotFoundError as error:
        hint = "Check owner and name; for a private one set ESPALIER_HF_TOKEN."
        raise SourceNotFound(f"The Hub shows no repository {repo_id}.", hint=hint) from error
    except LocalEntryNotFoundError as error:  # also an EntryNotFoundError: the Hub did not answer
        raise _unreachable(error) from error
    except EntryNotFoundError as error:
        raise SourceNotFound(f"A file of {repo_id} is missing at the Hub.") from error
    except HFValidationError as error:
        raise SourceNotFound(f"{repo_id} is no name of a repository.", hint="It is owner/name.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in {401, 403}:
            raise _gated(repo_id) from error
        if status == 404:
            raise SourceNotFound(f"The Hub shows no repository {repo_id}.") from error
        raise _unreachable(error) from error
    except Exception as error:
        # The client's HTTP library is its own affair and has changed before; its errors name it.
        if type(error).__module__.startswith(("httpx", "httpcore")) or isinstance(
            error, ConnectionError | TimeoutError
        ):
            raise _unreachable(error) from error
        raise


def _gated(repo_id: str) -> SourceGated:
    hint = "Ask for access on its page, then set ESPALIER_HF_TOKEN to a token of that account."
    return SourceGated(f"{repo_id} is gated or private.", hint=hint)


def _unreachable(error: Exception) -> Unreachable:
    return Unreachable(f"The Hugging Face Hub did not answer ({type(error).__name__}).", hint="The job tries again.")
