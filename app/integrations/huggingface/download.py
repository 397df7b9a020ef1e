"""The Hugging Face Hub over HTTP: a revision to a commit, files into the cache, refusals in our words."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url
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

from app.integrations.huggingface.client import no_answer
from app.integrations.shared.cache import Place
from app.integrations.shared.digests import sha256_of
from app.integrations.shared.sources import Access, SourceUnreachable, locked
from espalier.errors import SourceGated, SourceNotFound

RepoType = Literal["model", "dataset"]
_TIMEOUT_SECONDS = 30.0
KIND: Final = "huggingface"
COMMIT: Final = re.compile(r"[0-9a-f]{40}")


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
        """Return the file of this name."""
        return next((file for file in self.files if file.name == name), None)


def look_up(repo_type: RepoType, repo_id: str, revision: str, access: Access) -> Repo:
    """Resolve a branch, tag or commit and list its files."""
    api = HfApi(endpoint=_endpoint(access), token=access.of(KIND).get("token", False))
    with refusals(repo_id):
        ask = api.model_info if repo_type == "model" else api.dataset_info
        info = ask(repo_id, revision=revision, files_metadata=True, timeout=_TIMEOUT_SECONDS)
    if info.sha is None:
        raise SourceNotFound(f"The Hub names no commit for {repo_id}.")
    files = tuple(
        RepoFile(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else None) for file in info.siblings or []
    )
    return Repo(repo_type, repo_id, info.sha, files, tuple(info.tags or ()))


def _endpoint(access: Access) -> str | None:
    """Return the operator's mirror; None for the public Hub."""
    return access.of(KIND).get("endpoint")


def download(repo: Repo, names: Sequence[str], access: Access) -> Place:
    """Return a place with the named files of a repository; what is whole is kept by commit.

    What is large is verified against the sha256 that the Hub promised. What another project's token has brought is
    given to those whom the Hub would give it.
    """
    source = hashlib.sha256(f"{_endpoint(access)}|{repo.type}|{repo.id}".encode()).hexdigest()[:16]
    place = Place.of(access.cache_dir, source, repo.commit)
    wanted = [file for file in repo.files if file.name in set(names)]
    with locked(place.folder):
        have = place.whole()
        if cached := next((file for file in wanted if file.name in have), None):
            _ask_for(repo, cached, access)
        total, before = sum(file.bytes for file in wanted), 0
        for file in wanted:
            if file.name not in have:
                _download(repo, file, place.files, access, _counter(before, total, access.progress))
                have.add(file.name)
                place.note_whole(have)
            before += file.bytes
            access.progress(before, total)
        place.used()
    return place


def _ask_for(repo: Repo, file: RepoFile, access: Access) -> None:
    """Ask the Hub for a file, without its bytes: the page of a gated repository is everybody's, its files are not."""
    url = hf_hub_url(repo.id, file.name, repo_type=repo.type, revision=repo.commit, endpoint=_endpoint(access))
    with refusals(repo.id):
        get_hf_file_metadata(
            url, token=access.of(KIND).get("token", False), timeout=_TIMEOUT_SECONDS, endpoint=_endpoint(access)
        )


def _download(repo: Repo, file: RepoFile, folder: Path, access: Access, counter: type[Any]) -> None:
    with refusals(repo.id):
        path = hf_hub_download(
            repo.id,
            file.name,
            repo_type=repo.type,
            revision=repo.commit,
            local_dir=folder,
            endpoint=_endpoint(access),
            token=access.of(KIND).get("token", False),
            tqdm_class=counter,
        )
    if file.sha256 is not None and sha256_of(Path(path)) != file.sha256:
        Path(path).unlink()
        raise SourceUnreachable(f"{file.name} arrived damaged.", module=file.name)


def _counter(before: int, total: int, progress: Callable[[int, int], None]) -> type[Any]:
    """Return a progress bar that displays nothing and reports the bytes received."""

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
        hint = (
            "Check owner and name; for a private one store a token with PUT /v1/credentials/huggingface, or set "
            "ESPALIER_HF_TOKEN and let the project share it."
        )
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
        if no_answer(error):
            raise _unreachable(error) from error
        raise


def _gated(repo_id: str) -> SourceGated:
    hint = (
        "Ask for access on its page, then store a token of that account with PUT /v1/credentials/huggingface; an "
        "operator may set ESPALIER_HF_TOKEN and let the project share it."
    )
    return SourceGated(f"{repo_id} is gated or private.", hint=hint)


def _unreachable(error: Exception) -> SourceUnreachable:
    return SourceUnreachable(f"The Hugging Face Hub did not answer ({type(error).__name__}).")
