"""Inspection of a remote model before any job: its configuration and headers, held to the same checks.

The few bytes that decide are put into a folder of holes: files of the right names and sizes, with nothing in them but
configurations and headers. What reads a model on this machine reads that folder.
"""

from __future__ import annotations

import struct
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from app.integrations.huggingface.client import Hub, HubSilentError, Repository
from app.integrations.shared.sources import Reader, SourceInspection
from espalier.errors import SourceGated, SourceNotFound, UnsafeSource
from espalier.probe import ModelFacts, unsupported_files
from espalier.probe.config import MAX_CONFIG_BYTES, MAX_TOKENIZER_CONFIG_BYTES, MAY_NAME_CODE
from espalier.probe.documents import PLAIN
from espalier.probe.headers import INDEX, MAX_HEADER_BYTES, MAX_INDEX_BYTES, SINGLE

READ: Final = {
    "config.json": MAX_CONFIG_BYTES,
    INDEX: MAX_INDEX_BYTES,
    **dict.fromkeys(MAY_NAME_CODE, MAX_TOKENIZER_CONFIG_BYTES),
}
"""Files whose content decides."""
NAMED: Final = frozenset({"tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model"})
"""Files of the tokenizer: it matters that they are there, and a job reads them."""
HEADER_BYTES: Final = 2**18
"""Asked of a weight file at first: most headers are shorter."""
MAX_FILE_BYTES: Final = 2**44
AT_ONCE: Final = 8


def inspect_repository(
    endpoint: str | None, repo: str, revision: str, reader: Reader, *, owner: str
) -> SourceInspection:
    """Inspect a repository for a project; raises SourceRefused where no job could work on what is there."""
    hub, repository = Hub(endpoint), None
    try:
        repository = hub.repository(repo, revision)
        with tempfile.TemporaryDirectory(prefix="espalier-inspection-") as folder:
            facts = _facts(hub, repository, Path(folder), reader, owner)
        return SourceInspection(repository.commit, facts, {})
    except SourceGated as gated:
        return _without_facts(repository, "source_gated", f"{gated.message} {gated.hint}")
    except SourceNotFound as missing:
        if repository is not None:  # it is there, and something of it is not: a job would find the same
            raise
        return _without_facts(repository, "source_not_found", f"{missing.message} {missing.hint}".strip())
    except HubSilentError as silent:
        return _without_facts(repository, "hub_unreachable", f"The Hugging Face Hub did not answer: {silent}.")


def _without_facts(repository: Repository | None, code: str, why: str) -> SourceInspection:
    if repository is None:
        return SourceInspection(None, None, {}, code, why)
    weights = [size for name, size in repository.sizes.items() if name.endswith(".safetensors")]
    metadata = {
        "licence": repository.licence,
        "parameters": repository.parameters,
        "model_type": repository.model_type,
        "architecture": repository.architecture,
        "bytes": sum(weights) or None,
    }
    return SourceInspection(repository.commit, None, metadata, code, why)


def _facts(hub: Hub, repository: Repository, folder: Path, reader: Reader, owner: str) -> ModelFacts:
    for name in repository.sizes:
        if name in READ and not (name == INDEX and SINGLE in repository.sizes):
            (folder / name).write_bytes(hub.file(repository, name, count=min(repository.sizes[name], READ[name] + 1)))
        elif name in NAMED or (PLAIN.fullmatch(name) and unsupported_files.is_known(name)):
            (folder / name).touch()
    if SINGLE in repository.sizes:
        (folder / SINGLE).touch()
    try:
        weights = [name for name in reader.weight_files(folder, owner=owner) if name in repository.sizes]
    except SourceNotFound:  # what there is instead decides the words of the refusal
        weights = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for name, data in zip(weights, pool.map(lambda name: _header(hub, repository, name), weights), strict=True):
            with (folder / name).open("wb") as stream:
                stream.write(data)
                stream.truncate(repository.sizes[name])
    facts = reader.probe(folder, owner=owner, unread=NAMED)
    return facts.model_copy(update={"licence": repository.licence or facts.licence})


def _header(hub: Hub, repository: Repository, name: str) -> bytes:
    size = repository.sizes[name]
    if size > MAX_FILE_BYTES:
        raise UnsafeSource(f"{name} claims an impossible size.", module=name)
    data = hub.file(repository, name, count=min(size, HEADER_BYTES))
    length = 8 + struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
    if len(data) < length <= min(size, MAX_HEADER_BYTES + 8):
        data += hub.file(repository, name, start=len(data), count=length - len(data))
    return data
