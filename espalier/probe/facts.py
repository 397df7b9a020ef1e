"""Gather a model's facts from its configuration and headers alone."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from espalier.errors import SourceNotFound, UnsafeSource
from espalier.families.sizes import Sizes
from espalier.memory.shapes import BlockShape, MapShape, ModelShape
from espalier.model_files import TEMPLATES
from espalier.probe import unsupported_files, vocabulary
from espalier.probe.config import read_config
from espalier.probe.documents import require_regular
from espalier.probe.head import as_stored
from espalier.probe.headers import WEIGHT_BYTES, Tensor, read_tensors
from espalier.probe.parts import sizes_of
from espalier.probe.tensors import Expected, match, refuse_many
from espalier.probe.unsupported_files import CONVERT
from espalier.recipe.resolution import LONGEST_DEFAULT_TOKENS
from espalier.recipe.steps.output import Dtype

DTYPES: dict[str, Dtype] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
UNSAFE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack"})
MAX_FILES = 10_000
LICENCE = re.compile(r"^license:\s*[\"']?([\w.+-]{1,64})[\"']?\s*$", re.MULTILINE)


class ProbedMatrix(BaseModel):
    """One linear layer inside the blocks."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Module name, as transformers has it; an expert's map has the name `experts.3.up_proj`."""
    block: int
    num_outputs: int
    num_inputs: int
    biased: bool = True
    """Whether it has a bias; taken for granted in facts that an earlier version wrote down."""


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
    splits_in_halves: bool
    """Whether a block can be refitted one submodule after the other."""
    dtype: Dtype
    parameters: int
    bytes: int
    matrices: tuple[ProbedMatrix, ...]
    licence: str | None
    tokenizer_present: bool
    tokenizer_missing: str | None = None
    """Why there is none that can be used."""
    sizes: Sizes | None = None
    """What could go as a whole; None in facts that an earlier version wrote down."""
    block_parameters: tuple[int, ...] | None = None
    """Of every block, norms, biases and routers included; facts of an earlier version tell of no more than weights."""

    @cached_property
    def shape(self) -> ModelShape:
        """What of the model decides memory and work."""
        maps: dict[int, list[MapShape]] = {}
        for each in self.matrices:
            local = each.name.partition(f".{each.block}.")[2]
            maps.setdefault(each.block, []).append(MapShape(local, each.num_outputs, each.num_inputs))
        weights = {index: sum(each.weights for each in block) for index, block in maps.items()}
        sizes = weights if self.block_parameters is None else dict(enumerate(self.block_parameters))
        return ModelShape.of(
            (BlockShape(tuple(block), sizes[index]) for index, block in maps.items()),
            parameters=self.parameters,
            vocabulary=self.vocab_size,
            width=self.hidden_size,
            default_length=min(LONGEST_DEFAULT_TOKENS, self.max_positions),
        )


def probe(
    directory: Path, roots: Sequence[Path] = (), *, unread: Collection[str] = (), whole: bool = False
) -> ModelFacts:
    """Read a model directory without loading it; links may lead anywhere unless `roots` are given.

    Of the files in `unread` only the names count: they are not here. `whole`: everything lies here and there is time,
    so that tensors which may be equal are read to their ends.
    Raises SourceNotFound, UnsafeSource or UnsupportedArchitecture.
    """
    if not directory.is_dir():
        raise SourceNotFound("There is no such folder.")
    try:
        check_files(directory, roots)
        family = read_config(directory)
        refuse_many(family)
        tensors = read_tensors(directory)
        family = family.measured({name: tensor.shape for name, tensor in tensors.items()})
        family = as_stored(family, tensors, directory, whole=whole)
        licence = _licence(directory / "README.md")
        no_tokenizer = vocabulary.missing(directory, family, unread=unread)
    except OSError as error:  # the class only: a message would name paths of this machine
        raise SourceNotFound(f"The folder cannot be read: {type(error).__name__}.") from None
    expected = Expected(family)
    match(tensors, expected)
    return _facts(expected, tensors, licence, no_tokenizer)


def check_files(directory: Path, roots: Sequence[Path]) -> None:
    """Refuse a folder of too many files, of pipes and devices, of links that lead away, of pickles alone."""
    files = [path for path in directory.iterdir() if not path.is_dir()]
    nested = directory / TEMPLATES
    carried = [path for path in nested.iterdir() if not path.is_dir()] if nested.is_dir() else []
    if len(files) + len(carried) > MAX_FILES:
        raise UnsafeSource(f"The folder holds more than {MAX_FILES} files.")
    require_regular([*files, *carried], roots)
    suffixes = {path.suffix.lower() for path in files}
    unsafe = sorted(suffixes & UNSAFE_SUFFIXES)
    if unsafe and ".safetensors" not in suffixes:
        refusal = unsupported_files.refuse([path.name for path in files], "")
        if not isinstance(refusal, UnsafeSource):
            raise refusal
        raise UnsafeSource(f"The weights are {', '.join(unsafe)} files, which can run code.", hint=CONVERT)


def _facts(expected: Expected, tensors: dict[str, Tensor], licence: str | None, no_tokenizer: str | None) -> ModelFacts:
    family, own = expected.family, expected.own
    elements: Counter[str] = Counter()
    for tensor in tensors.values():
        if tensor.dtype in WEIGHT_BYTES:
            elements[tensor.dtype] += tensor.elements
    return ModelFacts(
        model_type=family.model_type,
        architecture=family.architecture,
        num_blocks=family.num_hidden_layers,
        hidden_size=family.hidden_size,
        vocab_size=family.vocab_size,
        max_positions=family.max_position_embeddings,
        tied_embeddings=family.tie_word_embeddings,
        has_biases=any(name.endswith(".bias") for name in own),
        has_norms=any(name.endswith(".weight") and len(shape) == 1 for name, shape in own.items()),
        splits_in_halves=family.splits_in_halves(),
        dtype=DTYPES[elements.most_common(1)[0][0]],
        parameters=sum(math.prod(shape) for shape in own.values()),
        bytes=sum(tensor.bytes for tensor in tensors.values()),
        matrices=tuple(_matrices(expected)),
        licence=licence,
        tokenizer_present=no_tokenizer is None,
        tokenizer_missing=no_tokenizer,
        sizes=sizes_of(expected),
        block_parameters=tuple(
            sum(math.prod(shape) for shape in family.block_shapes(index).values()) for index, _ in expected.blocks()
        ),
    )


def _matrices(expected: Expected) -> Iterator[ProbedMatrix]:
    for index, prefix in expected.blocks():
        for name, each in expected.family.maps(index).items():
            yield ProbedMatrix(
                name=f"{prefix}{name}",
                block=index,
                num_outputs=each.outputs,
                num_inputs=each.inputs,
                biased=each.biased,
            )


def _licence(card: Path) -> str | None:
    """Return the licence in the front matter of a model card, if it is a plain word."""
    if not card.is_file():
        return None
    with card.open("rb") as stream:
        text = stream.read(2**16).decode("utf-8", errors="replace")
    front = text.split("\n---", 1)[0] if text.startswith("---\n") else ""
    match = LICENCE.search(front)
    return match[1] if match else None
