"""List the files of a model folder: one definition for sources, uploads, hashes, artifacts and publications.

Templates and notices are carried as they are: nothing here or elsewhere renders, reads or runs them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
TEMPLATES: Final = "additional_chat_templates"
"""The one folder that is looked into: transformers keeps further chat templates there, each as `<name>.jinja`."""

_WEIGHTS: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.safetensors")
PICKLES: Final = re.compile(r".*\.(bin|pt|pth|ckpt|pkl|pickle|h5|msgpack)", re.IGNORECASE)
_NEVER: Final = re.compile(r".*\.(bin|pt|pth|ckpt|pkl|pickle|h5|msgpack|py|pyc|so|zip|tar|gz|tgz)", re.IGNORECASE)
"""What can run code, and archives, whatever else their names say."""


@dataclass(frozen=True)
class _Group:
    """Names of one purpose, and how large such a file may be."""

    names: re.Pattern[str]
    most_bytes: int


# Names become keys of the store: ASCII alone.
_TOKENIZER: Final = _Group(
    re.compile(
        r"tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|"
        r"vocab\.(json|txt|bpe)|merges\.txt|bpe\.codes|encoder\.json|tekken\.json|tokenizer\.model(\.v\d[\w.]{0,20})?|"
        r"[A-Za-z0-9_-][\w.-]{0,60}\.(tiktoken|model|spm)",
        re.ASCII,
    ),
    64 * 2**20,
)
_TEMPLATE: Final = _Group(
    re.compile(rf"chat_template\.json|({TEMPLATES}/)?[A-Za-z0-9_-][\w.-]{{0,100}}\.(jinja2?|j2)", re.ASCII), 2**20
)
_PROCESSOR: Final = _Group(
    re.compile(r"(video_|image_)?(pre)?processor_config\.json|audio_tokenizer_config\.json"),
    2**20,
)
_NOTICE: Final = _Group(
    re.compile(
        r"([\w-]{1,40}[_-])?(licen[cs]e|notice|use[_-](policy|policie|guide|guideline)|terms|patent|disclaimer|copying|"
        r"copyright|attribution|authors|citation|(eula|legal)(?![a-z]))s?[\w.-]{0,100}",
        re.ASCII | re.IGNORECASE,
    ),
    4 * 2**20,
)
_OTHER: Final = (
    _Group(re.compile(r"config\.json|generation_config\.json"), 2**20),
    _Group(re.compile(re.escape(INDEX)), 32 * 2**20),
    _Group(re.compile(r"README\.md"), 16 * 2**20),
)


def is_weights(name: str) -> bool:
    """Tell whether a file of this name holds weights in safetensors."""
    return bool(_WEIGHTS.fullmatch(name))


def small_bytes(name: str) -> int | None:
    """Return how large the small file of this name may be; None where it is no part of a model, or weights."""
    if is_weights(name) or _NEVER.fullmatch(name):
        return None
    groups = (_TOKENIZER, _TEMPLATE, _PROCESSOR, *_OTHER, _NOTICE)
    return next((group.most_bytes for group in groups if group.names.fullmatch(name)), None)


def belongs_to_model(name: str) -> bool:
    """Tell whether a file of this name, its folder before it, may be a part of a model: an allow-list."""
    return is_weights(name) or small_bytes(name) is not None


def goes_with_tokenizer(name: str) -> bool:
    """Tell whether a file is needed wherever the tokenizer is kept apart from the weights."""
    return any(group.names.fullmatch(name) for group in (_TOKENIZER, _TEMPLATE, _PROCESSOR)) and belongs_to_model(name)


def model_files(folder: Path) -> dict[str, Path]:
    """Return the files of a model in a folder by their names, in order."""
    further = folder / TEMPLATES
    paths = {path.name: path for path in folder.iterdir()}
    if further.is_dir():
        paths |= {f"{TEMPLATES}/{path.name}": path for path in further.iterdir()}
    return {name: path for name, path in sorted(paths.items()) if belongs_to_model(name) and path.is_file()}


def content_sha256(folder: Path, file_sha256: Callable[[Path], str]) -> str:
    """Hash a model folder: over its files' names and contents, each hashed by `file_sha256`."""
    digest = hashlib.sha256()
    for name, file in model_files(folder).items():
        digest.update(f"{name} {file_sha256(file.resolve())}\n".encode())
    return digest.hexdigest()
