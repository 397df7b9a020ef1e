"""What of a family can go as a whole, and how many parameters that is: by asking for the shapes of a smaller model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from espalier.families import Family, Shapes
from espalier.families.sizes import Part, Sizes
from espalier.probe.tensors import Expected

_WIDTHS = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
"""What families call the number of neurons."""
_EXPERTS = ("num_local_experts", "num_experts")


def sizes_of(expected: Expected) -> Sizes:
    """The model in numbers."""
    family = expected.family
    return Sizes(
        parameters=_count(expected.own),
        head=_count(family.head_shapes()),
        tensors=len(expected.own),
        parts=tuple(_parts(expected)),
    )


def _parts(expected: Expected) -> Iterator[Part]:
    family = expected.family
    inside = _count(expected.own) - _count(family.outer_shapes()) - _head(family)
    yield Part(
        kind="depth", count=family.num_hidden_layers, parameters=inside, refusal=family.why_not("depth"),
        no_stand_in=family.why_not("replace"),
    )  # fmt: skip
    wide = max(each.inputs for each in family.maps(0).values())
    name = next((name for name in _WIDTHS if name in type(family).model_fields), None)
    if _routed(family):
        why = "its MLP is a mixture of experts: remove experts"
        yield Part(kind="neurons", count=wide, refusal=why)
    elif name is None:
        yield Part(kind="neurons", count=wide, refusal=family.why_not("neurons"))
    else:
        count = getattr(family, name) or 4 * family.hidden_size
        yield _part(family, "neurons", count, {name: count - 1}, "mlp_bias")
    keys, size = getattr(family, "kv_heads", None), getattr(family, "head_size", None)
    if keys is None or size is None:
        yield Part(kind="kv_groups", count=family.num_attention_heads, refusal=family.why_not("kv_groups"))
    else:
        fewer = {
            "num_attention_heads": family.num_attention_heads // keys * (keys - 1),
            "num_key_value_heads": keys - 1, "head_dim": size,
        }  # fmt: skip
        part = _part(family, "kv_groups", keys, fewer, "attention_bias")
        yield part.model_copy(update={"fits": _groups_that_fit(family, keys)})
    if _routed(family):
        name = next(name for name in _EXPERTS if name in type(family).model_fields)
        count = getattr(family, name)
        part = _part(family, "experts", count, {name: count - 1}, "")
        yield part.model_copy(update={"least": getattr(family, "num_experts_per_tok", 1)})


def _part(family: Family, kind: Any, count: int, fewer: dict[str, int], setting: str) -> Part:  # noqa: ANN401 - a word
    smaller = family.model_copy(update=fewer)
    blocks = range(family.num_hidden_layers)
    saved = sum(_count(family.block_shapes(i)) - _count(smaller.block_shapes(i)) for i in blocks)
    consumer = list(family.maps(0).values())[-1 if kind == "neurons" else 3]
    return Part(
        kind=kind, count=count, parameters=saved, refusal=family.why_not(kind),
        carries_bias=consumer.biased or setting in type(family).model_fields,
    )  # fmt: skip


def _groups_that_fit(family: Family, keys: int) -> tuple[int, ...] | None:
    if not getattr(family, "heads_divide", False):
        return None
    each = family.num_attention_heads // keys
    return tuple(groups for groups in range(1, keys + 1) if family.hidden_size % (groups * each) == 0)


def _routed(family: Family) -> bool:
    routed = getattr(family, "routed", None)
    return routed is not None and any(routed(index) for index in range(family.num_hidden_layers))


def _head(family: Family) -> int:
    return 0 if family.tie_word_embeddings else _count(family.head_shapes())


def _count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
