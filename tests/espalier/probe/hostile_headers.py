"""Safetensors files made to harm, each wrong in one place, and the good header that they are made of."""

from __future__ import annotations

import json
import struct
from typing import Any

from tests.espalier.probe.checkpoints import safetensors

GOOD = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def entry(**changes: Any) -> dict[str, Any]:
    """The good header, its entry changed."""
    return {"a": GOOD["a"] | changes}


BAD: dict[str, bytes] = {
    "empty file": b"",
    "shorter than the length": b"\x08\x00\x00",
    "length beyond the file": struct.pack("<Q", 100) + b"{}",
    "length of 2**63": struct.pack("<Q", 2**63) + b"{}",
    "length beyond 16 MiB": struct.pack("<Q", 16 * 2**20 + 1) + bytes(17 * 2**20),
    "zero length": struct.pack("<Q", 0),
    "not JSON": safetensors(b"{'a': 1}", 0),
    "not UTF-8": safetensors(b'{"\xff": 1}', 0),
    "a list": safetensors(b"[]", 0),
    "NaN": safetensors(b'{"a": NaN}', 0),
    "deep nesting": safetensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 0),
    "a number of 5000 digits": safetensors(b'{"a": ' + b"9" * 5000 + b"}", 0),
    "duplicate tensor": safetensors(b'{"a":%s,"a":%s}' % ((json.dumps(GOOD["a"]).encode(),) * 2), 8),
    "duplicate key in an entry": safetensors(
        b'{"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}', 8
    ),
    "duplicate metadata": safetensors(b'{"__metadata__":{"a":"1","a":"2"}}', 0),
    "metadata that is a list": safetensors({"__metadata__": [], **GOOD}, 8),
    "metadata of numbers": safetensors({"__metadata__": {"a": 1}, **GOOD}, 8),
    "path as a name": safetensors({"../../etc/x": GOOD["a"]}, 8),
    "dots in a name": safetensors({"a..b": GOOD["a"]}, 8),
    "empty name": safetensors({"": GOOD["a"]}, 8),
    "newline at the end of a name": safetensors({"a\n": GOOD["a"]}, 8),
    "name of 201 characters": safetensors({"a" * 201: GOOD["a"]}, 8),
    "null byte in a name": safetensors({"a\0": GOOD["a"]}, 8),
    "entry that is a list": safetensors({"a": [1]}, 8),
    "entry without a shape": safetensors({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, 8),
    "entry with more": safetensors(entry(extra=1), 8),
    "unknown dtype": safetensors(entry(dtype="F99"), 8),
    "F64": safetensors(entry(dtype="F64", shape=[1]), 8),
    "dtype that is a list": safetensors(entry(dtype=["F32"]), 8),
    "shape that is text": safetensors(entry(shape="2"), 8),
    "shape of booleans": safetensors(entry(shape=[True, 2]), 8),
    "shape of floats": safetensors(entry(shape=[2.0]), 8),
    "negative shape": safetensors(entry(shape=[-1, -2]), 8),
    "shape of nine dimensions": safetensors(entry(shape=[1] * 8 + [2]), 8),
    "shape that overflows 64 bits": safetensors(entry(shape=[2**62, 4, 2]), 8),
    "zero size": safetensors(entry(shape=[0], data_offsets=[0, 0]), 0),
    "offsets reversed": safetensors(entry(data_offsets=[8, 0]), 8),
    "negative offsets": safetensors(entry(data_offsets=[-8, 0]), 8),
    "three offsets": safetensors(entry(data_offsets=[0, 8, 8]), 8),
    "offsets of text": safetensors(entry(data_offsets=["0", "8"]), 8),
    "shape beyond its bytes": safetensors(entry(shape=[3]), 8),
    "gap at the start": safetensors(entry(data_offsets=[4, 12]), 12),
    "two tensors on one place": safetensors(GOOD | {"b": GOOD["a"]}, 8),
    "overlap": safetensors(GOOD | {"b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, 12),
    "gap between": safetensors(GOOD | {"b": {"dtype": "F32", "shape": [2], "data_offsets": [12, 20]}}, 20),
    "bytes missing at the end": safetensors(GOOD, 7),
    "bytes left at the end": safetensors(GOOD, 9),
}
