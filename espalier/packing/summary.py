"""Summarise an artifact directory: files against the manifest, parameters, zeros, patterns, bytes dense and packed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from espalier.packing.codes import Bytes
from espalier.packing.files import Entry, PackError, RawTensorFile, Words, chunks
from espalier.packing.pack import CHUNK, SUFFIX
from espalier.packing.unpacking import Pack

_MODEL = "model*.safetensors"
_GROUPS = (4, 8, 16)
"""The m of n:m that are looked for, the smallest first."""


def summary(folder: Path) -> dict[str, Any]:
    """Describe a directory as JSON data; PackError when it holds no model."""
    tensors, dense_bytes = 0, 0
    parameters = nonzero = sparse_total = sparse_nonzero = 0
    patterns: dict[str, int] = {}
    for entry, parts in _tensors(folder):
        counts, pattern = _kept(entry, parts)
        tensors, dense_bytes = tensors + 1, dense_bytes + entry.end - entry.begin
        parameters, nonzero = parameters + entry.numel, nonzero + counts
        if 4 * (entry.numel - counts) >= entry.numel > 0:  # a quarter of zeros is nobody's accident
            sparse_total, sparse_nonzero = sparse_total + entry.numel, sparse_nonzero + counts
            patterns[pattern] = patterns.get(pattern, 0) + 1
    packed = [path.stat().st_size for path in sorted(folder.glob(f"model*{SUFFIX}"))]
    return {
        "architecture": (_json(folder / "config.json").get("architectures") or [None])[0],
        "tensors": tensors,
        "parameters": parameters,
        "nonzero_parameters": nonzero,
        "sparse_tensors": patterns,
        "sparsity_of_sparse_tensors": 1 - sparse_nonzero / sparse_total if sparse_total else 0.0,
        "dense_bytes": dense_bytes,
        "packed_bytes": sum(packed) if packed else None,
        "files": _files(folder),
    }


def _tensors(folder: Path) -> Iterator[tuple[Entry, Iterator[Words]]]:
    """Every tensor of the model once, from the dense files where there are any."""
    dense = [path for path in sorted(folder.glob(_MODEL)) if not path.name.endswith(SUFFIX)]
    packs = sorted(folder.glob(f"model*{SUFFIX}"))
    if not dense and not packs:
        raise PackError(f"{folder} holds no {_MODEL}")
    for path in dense:
        file = RawTensorFile(path)
        for entry in file.entries:
            whole = file.words(entry)
            yield entry, (whole[chunk] for chunk in chunks(entry.numel, CHUNK))
    for path in () if dense else packs:
        pack = Pack(path)
        for entry in pack.entries:
            yield entry, pack.words(entry)


def _kept(entry: Entry, parts: Iterator[Words]) -> tuple[int, str]:
    """Count the nonzero elements, and detect n of every m in a row: `2:4`, or `unstructured`."""
    count, max_kept = 0, dict.fromkeys(_GROUPS, 0)
    for words in parts:
        kept = (words != 0).view(np.uint8)
        count += int(np.count_nonzero(kept))
        for size in _GROUPS:
            if len(kept) % size == 0:
                max_kept[size] = max(max_kept[size], int(_sums(kept, size).max(initial=0)))
    for size, n in max_kept.items():
        whole = len(entry.shape) > 1 and entry.shape[-1] % size == 0
        # Few weights leave room in every group; of a pattern all groups are full, but for kept weights that are zero.
        if whole and n < size and count >= 0.99 * entry.numel * n / size:
            return count, f"{n}:{size}"
    return count, "unstructured"


def _sums(counts: Bytes, size: int) -> Bytes:
    while size > 1:
        counts, size = counts[::2] + counts[1::2], size // 2
    return counts


def _files(folder: Path) -> list[dict[str, Any]]:
    """Every file that the manifest names; `verified` tells whether it is there with the recorded sha256."""
    rows = []
    for item in _json(folder / "manifest.json").get("files", []):
        path = folder / Path(item["path"]).name
        verified = path.is_file() and path.stat().st_size == item["bytes"] and _sha256(path) == item["sha256"]
        rows.append({"path": item["path"], "bytes": item["bytes"], "verified": verified})
    return rows


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
