"""Count a model's removable units by asking its family for the shapes of a smaller one."""

from __future__ import annotations

import math
from collections.abc import Iterator

from espalier.families import Family, PartKind, Shapes
from espalier.families.sizes import Part, Sizes
from espalier.probe.tensors import Expected


def sizes_of(expected: Expected) -> Sizes:
    """Return the model's sizes: parameters, blocks and units of each kind."""
    family = expected.family
    return Sizes(
        parameters=_count(expected.own),
        head=_count(family.head_shapes()),
        tensors=len(expected.own),
        parts=tuple(_parts(expected)),
    )


def _parts(expected: Expected) -> Iterator[Part]:
    family = expected.family
    head = 0 if family.tie_word_embeddings else _count(family.head_shapes())
    yield Part(
        kind="depth",
        count=family.count("depth"),
        parameters=_count(expected.own) - _count(family.outer_shapes()) - head,
        refusal=family.why_not("depth"),
        no_stand_in=family.why_not("replace"),
    )
    kinds: tuple[PartKind, ...] = ("neurons", "kv_groups", "experts")
    yield from (_units(family, kind) for kind in kinds if family.count(kind))


def _units(family: Family, kind: PartKind) -> Part:
    """Return the units of one kind; of those that stay whole, no more than why."""
    count, refusal = family.count(kind), family.why_not(kind)
    if refusal is not None:
        return Part(kind=kind, count=count, refusal=refusal)
    smaller = family.model_copy(update=family.narrowed(kind, count - 1))
    blocks = range(family.num_hidden_layers)
    return Part(
        kind=kind,
        count=count,
        parameters=sum(_count(family.block_shapes(i)) - _count(smaller.block_shapes(i)) for i in blocks),
        least=family.min_count(kind),
        fits=family.fits(kind),
        carries_bias=kind == "experts" or family.carries_bias(kind),
    )


def _count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
