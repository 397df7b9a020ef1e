"""Read small untrusted JSON files: bounded, regular, inside the allowed folders, without duplicate keys."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from espalier.errors import UnsafeSource
from espalier.model_files import small_bytes

PLAIN = re.compile(r"[\w.+-]{1,200}", re.ASCII)
DISGUISES = (
    (b"PK\x03\x04", "a zip archive (torch.save)"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"GGUF", "a GGUF file"),
    (b"version https://git-lfs", "a Git LFS pointer (run `git lfs pull`)"),
)
"""First bytes of what is found under the names of a model's files."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ALL_PAIRED = re.compile(
    rb"(?:[^\\]++|\\[^u]|\\u(?![dD][89a-fA-F])|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})*+"
)
"""JSON in which every escape of a surrogate has its other half."""


class DuplicateKeyError(ValueError):
    """Two readers of one document could see different values."""


def parse_object(text: bytes, name: str) -> dict[str, Any]:
    """Parse one JSON object; `name` stands in the error."""
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except DuplicateKeyError:
        raise UnsafeSource(f"{name} has a duplicate key.", module=name) from None
    except (ValueError, RecursionError):  # also undecodable text and numbers of thousands of digits
        refuse_encoding(text, name)
        raise UnsafeSource(f"{name} is not valid JSON.", module=name) from None
    if not isinstance(value, dict):
        raise UnsafeSource(f"{name} is not a JSON object.", module=name)
    if _SURROGATE.search(text) and not _ALL_PAIRED.fullmatch(text):
        what = "a lone surrogate, half a character such as \\ud800, which neither safetensors nor tokenizers read"
        raise UnsafeSource(f"{name} has {what}.", hint="Write the file again without it.", module=name)
    return value


def refuse_encoding(start: bytes, name: str) -> None:
    """Refuse text in another encoding, or behind a byte order mark, which stock transformers does not read either."""
    encoding = json.detect_encoding(start) if len(start) > 1 else "utf-8"
    what, was = f"is {encoding[:6].upper()} text", encoding[:6].upper()
    try:
        codecs.getincrementaldecoder(encoding)().decode(start)
    except UnicodeDecodeError as error:
        at = f"byte 0x{error.object[error.start]:02x} at {error.start:,}"
        what, was = f"is not {was} text ({at}): perhaps Windows-1252", "WINDOWS-1252"
    else:
        if encoding == "utf-8":
            return
    hint = f"Convert it to UTF-8 without a byte order mark, like `iconv -f {was} -t UTF-8`."
    if encoding == "utf-8-sig":
        what, hint = "begins with a byte order mark", "Save it as UTF-8 without a byte order mark."
    raise UnsafeSource(f"{name} {what}.", hint=hint, module=name)


def read_object(path: Path, *, max_bytes: int) -> dict[str, Any]:
    """Read one JSON object from a file of at most `max_bytes`."""
    if path.stat().st_size > max_bytes:
        raise UnsafeSource(f"{path.name} is larger than {max_bytes >> 20} MiB.", module=path.name)
    refuse_disguised(path, path.name)
    return parse_object(path.read_bytes(), path.name)


def refuse_disguised(path: Path, name: str) -> None:
    """Refuse a small file whose first bytes are those of something else."""
    with path.open("rb") as stream:
        start = stream.read(32)
    for magic, what in DISGUISES:
        if start.startswith(magic):
            raise UnsafeSource(f"{name} is {what}.", hint="Put the file itself in its place.", module=name)


def require_regular(files: Iterable[Path], roots: Iterable[Path]) -> None:
    """Refuse pipes and devices (opening one may block for ever) and links that leave the allowed folders."""
    folders = [root.resolve() for root in roots]
    for file in files:
        if not file.is_file():
            raise UnsafeSource("A file of the folder is not a regular file.", hint=_named(file))
        target = file.resolve()
        if folders and not any(target.is_relative_to(folder) for folder in folders):
            raise UnsafeSource("A file of the folder is a link that leaves the allowed folders.", hint=_named(file))


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise DuplicateKeyError
    return value


def _no_constant(name: str) -> object:
    raise ValueError(name)


def _named(file: Path) -> str:
    """Return the file's name where it is harmless to print."""
    return f"It is {file.name}." if PLAIN.fullmatch(file.name) else "Its name holds unusual characters."


def refuse_large(sizes: Mapping[str, int]) -> None:
    """Raise UnsafeSource where a small file of a model is larger than any of its kind is; sizes are bytes."""
    for name, size in sizes.items():
        max_bytes = small_bytes(name)
        if max_bytes is not None and size > max_bytes:
            raise UnsafeSource(
                f"{name} has {size} bytes; a file of this name has at most {max_bytes >> 20} MiB.",
                hint="Put the right file in its place, or leave it out.",
                module=name,
            )
