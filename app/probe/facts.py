"""What a model is, from its configuration and headers alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from app.errors import SourceNotFound, UnsafeSource, UnsupportedArchitecture
from app.probe.config import read_config
from app.probe.documents import require_regular
from app.probe.families import Family
from app.probe.headers import CONVERT, WEIGHT_BYTES, Tensor, read_tensors

Dtype = Literal["float32", "float16", "bfloat16"]
DTYPES: dict[str, Dtype] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
UNSAFE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack"})
MAX_FILES = 10_000
LICENCE = re.compile(r"^license:\s*[\"']?([\w.+-]{1,64})[\"']?\s*$", re.MULTILINE)


class Matrix(BaseModel):
    """One linear map inside the blocks."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Module name: the tensor's without `.weight`."""
    block: int
    num_outputs: int
    num_inputs: int


class ModelFacts(BaseModel):
    """What POST can know of a model."""

    model_config = ConfigDict(frozen=True)

    model_type: str
    architecture: str
    num_blocks: int
    hidden_size: int
    vocab_size: int
    max_positions: int
    tied_embeddings: bool
    has_biases: bool
    has_norms: bool
    """Whether any norm has a weight to train."""
    dtype: Dtype
    parameters: int
    bytes: int
    matrices: tuple[Matrix, ...]
    licence: str | None
    tokenizer_present: bool


def probe(directory: Path, roots: Sequence[Path] = ()) -> ModelFacts:
    """Read a model directory without loading it; links may lead anywhere unless `roots` are given.

    Raises SourceNotFound, UnsafeSource or UnsupportedArchitecture.
    """
    if not directory.is_dir():
        raise SourceNotFound("There is no such folder.")
    try:
        _look_at_files(directory, roots)
        family = read_config(directory)
        tensors = read_tensors(directory)
        licence = _licence(directory / "README.md")
    except OSError as error:  # the class only: a message would name paths of this machine
        raise SourceNotFound(f"The folder cannot be read: {type(error).__name__}.") from None
    _match(tensors, family)
    return _facts(directory, family, tensors, licence)


def _look_at_files(directory: Path, roots: Sequence[Path]) -> None:
    files = [path for path in directory.iterdir() if not path.is_dir()]
    if len(files) > MAX_FILES:
        raise UnsafeSource(f"The folder holds more than {MAX_FILES} files.")
    require_regular(files, roots)
    suffixes = {path.suffix.lower() for path in files}
    unsafe = sorted(suffixes & UNSAFE_SUFFIXES)
    if unsafe and ".safetensors" not in suffixes:
        raise UnsafeSource(f"The weights are {', '.join(unsafe)} files, which can run code.", hint=CONVERT)


def _match(tensors: dict[str, Tensor], family: Family) -> None:
    """Refuse a model whose tensors are not exactly those that its configuration tells."""
    _count_blocks(tensors, family)
    block = family.block_shapes()
    expected = family.outer_shapes()
    for index in range(family.num_hidden_layers):
        expected |= {f"{family.blocks}.{index}.{name}": shape for name, shape in block.items()}
    head = {"lm_head.weight": family.head_shape()}
    required, allowed = (expected, expected | head) if family.tie_word_embeddings else (expected | head,) * 2
    for name in required:
        if name not in tensors:
            raise UnsafeSource(
                f"Tensor {name} is missing: a {family.model_type} model of this configuration has one.", module=name
            )
    for name, tensor in tensors.items():
        if tensor.dtype not in WEIGHT_BYTES:
            if name in allowed:
                raise UnsafeSource(
                    f"Tensor {name} is {tensor.dtype}; weights are {', '.join(WEIGHT_BYTES)}.", module=name
                )
        elif name not in allowed:
            if not name.endswith(".rotary_emb.inv_freq"):  # a buffer that old checkpoints carry and nobody reads
                raise UnsafeSource(
                    f"Tensor {name} does not belong to a {family.model_type} model of this config.json.", module=name
                )
        elif tensor.shape != allowed[name]:
            raise UnsafeSource(
                f"Tensor {name} has shape {list(tensor.shape)} where config.json tells {list(allowed[name])}.",
                module=name,
            )


def _count_blocks(tensors: dict[str, Tensor], family: Family) -> None:
    block = re.compile(re.escape(family.blocks) + r"\.(\d{1,6})\.")
    blocks = {int(match[1]) for match in map(block.match, tensors) if match}
    if not blocks:
        raise UnsupportedArchitecture(f"The weights have no {family.blocks}: not a {family.architecture} checkpoint.")
    if blocks != set(range(family.num_hidden_layers)):
        raise UnsafeSource(f"The weights have {len(blocks)} blocks where config.json tells {family.num_hidden_layers}.")


def _facts(directory: Path, family: Family, tensors: dict[str, Tensor], licence: str | None) -> ModelFacts:
    weights = [tensor for tensor in tensors.values() if tensor.dtype in WEIGHT_BYTES]
    share: Counter[str] = Counter()
    for tensor in weights:
        share[tensor.dtype] += tensor.elements
    tied_copy = "lm_head.weight" if family.tie_word_embeddings else None
    return ModelFacts(
        model_type=family.model_type,
        architecture=family.architecture,
        num_blocks=family.num_hidden_layers,
        hidden_size=family.hidden_size,
        vocab_size=family.vocab_size,
        max_positions=family.max_position_embeddings,
        tied_embeddings=family.tie_word_embeddings,
        has_biases=any(tensor.name.endswith(".bias") for tensor in weights),
        has_norms=any(tensor.name.endswith(".weight") and len(tensor.shape) == 1 for tensor in weights),
        dtype=DTYPES[share.most_common(1)[0][0]],
        parameters=sum(tensor.elements for tensor in weights if tensor.name != tied_copy),
        bytes=sum(tensor.bytes for tensor in tensors.values()),
        matrices=tuple(_matrices(tensors)),
        licence=licence,
        tokenizer_present=_has_tokenizer(directory),
    )


def _matrices(tensors: dict[str, Tensor]) -> list[Matrix]:
    """Linear maps inside the blocks, found by the structure of the names: `<list>.<i>.<rest>.weight`, 2-D."""
    found = []
    for tensor in tensors.values():
        match = re.fullmatch(r"\D+\.(\d+)\.(.+)\.weight", tensor.name)
        if match and len(tensor.shape) == 2:
            outputs, inputs = tensor.shape
            name = tensor.name.removesuffix(".weight")
            found.append(Matrix(name=name, block=int(match[1]), num_outputs=outputs, num_inputs=inputs))
    return sorted(found, key=lambda matrix: (matrix.block, matrix.name))


def _has_tokenizer(directory: Path) -> bool:
    fast = (directory / "tokenizer.json").is_file()
    return fast or all((directory / name).is_file() for name in ("vocab.json", "merges.txt"))


def _licence(card: Path) -> str | None:
    """The licence in the front matter of a model card, if it is a plain word."""
    if not card.is_file():
        return None
    with card.open("rb") as stream:
        text = stream.read(2**16).decode("utf-8", errors="replace")
    front = text.split("\n---", 1)[0] if text.startswith("---\n") else ""
    match = LICENCE.search(front)
    return match[1] if match else None
