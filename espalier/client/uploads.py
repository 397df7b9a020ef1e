"""Upload a model folder or a text in parts, resuming where an earlier upload was cut."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
from ulid import ULID

from espalier.client.transport import ATTEMPTS, BUSY, ServiceError, Transport, delay, problem_of
from espalier.model_files import model_files

CHUNK_BYTES = 2**20
SEND_SECONDS = 600.0
"""For one part, on a slow line."""
Kind = Literal["model", "dataset"]
Sent = Callable[[int, int], None]
"""Hears (bytes that are there, bytes in all)."""


class NothingToUpload(Exception):
    """The path holds nothing that could be uploaded; the text says what would."""


@dataclass(frozen=True)
class _File:
    path: Path
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> _File:
        with path.open("rb") as stream:
            return cls(path, path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())


class Uploader:
    """One upload of one path."""

    def __init__(self, transport: Transport, path: Path, *, name: str = "") -> None:
        self._transport = transport
        self.kind: Kind = "model" if path.is_dir() else "dataset"
        self._files = {name: _File.of(file) for name, file in _chosen(path).items()}
        self._body = {
            "kind": self.kind,
            "name": name or path.resolve().name,
            "files": [{"name": n, "bytes": f.bytes, "sha256": f.sha256} for n, f in self._files.items()],
        }

    def run(self, sent: Sent) -> dict[str, Any]:
        """Open or find the upload, send what is missing, complete it, and return it."""
        upload = self._opened()
        total, there = upload["bytes"], 0
        missing = []
        for file in upload["files"]:
            for number in range(1, file["parts"] + 1):
                size = min(upload["part_bytes"], file["bytes"] - (number - 1) * upload["part_bytes"])
                if upload["state"] == "complete" or number in file["received"]:
                    there += size
                else:
                    missing.append((file["name"], number, size))
        sent(there, total)
        for name, number, size in missing:
            self.send_part(upload, name, number, size)
            there += size
            sent(there, total)
        if upload["state"] == "complete":
            return upload
        return self._transport.call("POST", f"/v1/uploads/{upload['id']}/complete")

    def _opened(self) -> dict[str, Any]:
        # The key is the content: the same files find the upload that they began, for a day.
        content = hashlib.sha256(json.dumps(self._body, sort_keys=True).encode()).hexdigest()
        for key in (content, str(ULID())):
            try:
                opened = self._transport.call(
                    "POST", "/v1/uploads", json=self._body, headers={"Idempotency-Key": f"upload-{key}"}
                )
                return self._transport.call("GET", f"/v1/uploads/{opened['id']}")
            except ServiceError as error:
                if error.status != 404 or key != content:
                    raise  # 404: what the key stands for was deleted since
        raise AssertionError("unreachable: the second key is new")

    def send_part(self, upload: dict[str, Any], name: str, number: int, size: int) -> None:
        """Store one part of a file, asking anew for its address where the store is busy."""
        with self._files[name].path.open("rb") as stream:
            stream.seek((number - 1) * upload["part_bytes"])
            data = stream.read(size)
        request = {"file": name, "number": number, "sha256": hashlib.sha256(data).hexdigest()}
        for attempt in range(ATTEMPTS):
            part = self._transport.call("POST", f"/v1/uploads/{upload['id']}/parts", json=request)
            answer = self.put_part(part, data)
            if answer is not None and not answer.is_error:
                return
            if answer is not None and answer.status_code < 500 and answer.status_code not in {403, *BUSY}:
                raise ServiceError(answer.status_code, problem_of(answer))
            self._transport.sleep(delay(attempt, answer.headers.get("Retry-After") if answer is not None else None))
        raise ServiceError(503, {"detail": f"part {number} of {name} could not be stored in {ATTEMPTS} tries"})

    def put_part(self, part: dict[str, Any], data: bytes) -> httpx.Response | None:
        """Send the bytes of a part to its address; None where no answer came."""
        try:
            if part["url"].startswith("/"):
                return self._transport.http.put(
                    part["url"], content=data, headers=part["headers"], timeout=SEND_SECONDS
                )
            # The store's own address: it is signed, and our key is none of its business.
            return httpx.put(part["url"], content=data, headers=part["headers"], timeout=SEND_SECONDS)
        except httpx.TransportError:
            return None


def _chosen(path: Path) -> dict[str, Path]:
    """Return the files that make a model, or the one text, by their names."""
    if path.is_file():
        return {path.name: path}  # the service decides whether it is text, before any byte is sent
    if not path.exists():
        raise NothingToUpload(f"there is nothing at {path}")
    files = model_files(path) if path.is_dir() else {}
    if "config.json" not in files:
        raise NothingToUpload(
            f"{path} holds no model: a model is a folder with config.json, tokenizer files and *.safetensors"
        )
    return files
