"""What a round of a loop may raise: errors of databases, of the interpreter, and of libraries in other languages."""

from __future__ import annotations

from sqlalchemy.exc import InternalError, OperationalError


class PanicError(BaseException):
    """As a library written in another language may raise it: no Exception."""


FAULTS: list[BaseException] = [
    OverflowError("int too large"),
    InternalError("SELECT", {}, Exception("a read-only standby")),
    RecursionError(),
    MemoryError(),
    KeyError("x"),
    SystemExit(1),
    OperationalError("SELECT", {}, Exception("gone")),
    PanicError(),
]
