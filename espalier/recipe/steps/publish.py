"""Publication targets: an open union, to which integrations add; the library publishes nothing itself."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, SchemaValidator, core_schema

from espalier.recipe.base import Spec, canonical


def _read(value: object, info: ValidationInfo) -> PublishTarget:
    if isinstance(value, PublishTarget):
        return value
    if not PublishTarget.declared:
        raise PydanticCustomError(
            "nothing_publishes", "a service or `espalier run` publishes: leave it out, and send the folder"
        )
    validator = _validator(tuple(sorted(PublishTarget.declared.items())))
    # JSON is read as such: a strict model takes of it what Python's own values may not stand for.
    read: PublishTarget = (
        validator.validate_json(canonical(value)) if info.mode == "json" else validator.validate_python(value)
    )
    return read


@lru_cache(1)
def _validator(declared: tuple[tuple[str, type[PublishTarget]], ...]) -> SchemaValidator:
    return SchemaValidator(_union(dict(declared)))


def _union(declared: Mapping[str, type[PublishTarget]]) -> CoreSchema:
    choices = {kind: declared[kind].__pydantic_core_schema__ for kind in sorted(declared)}
    return core_schema.tagged_union_schema(choices, discriminator="kind", strict=True)


class PublishTarget(Spec, ABC):
    """A place for results: as a field, any that is declared when a spec is read.

    A subclass sets `kind: Literal["name"] = "name"`; from its import on, specs and their schema know it.
    """

    declared: ClassVar[dict[str, type[PublishTarget]]] = {}
    """By kind."""

    kind: str

    @classmethod
    def __pydantic_init_subclass__(cls, **_: object) -> None:
        """Declare a place; a class without a kind of its own is a base of others."""
        kind = cls._own_kind()
        if kind is not None:
            known = cls.declared.setdefault(kind, cls)
            if known.__qualname__ != cls.__qualname__ or known.__module__ != cls.__module__:
                raise TypeError(f"{cls.__module__}.{cls.__name__} and {known.__module__} are both called {kind!r}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read any declared place where a base of them is asked for."""
        if cls._own_kind() is not None:
            return handler(source)
        return core_schema.with_info_plain_validator_function(_read)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Show the places that are declared by now."""
        return handler(schema if cls._own_kind() is not None else _union(cls.declared))

    @classmethod
    def _own_kind(cls) -> str | None:
        kind = cls.__pydantic_fields__["kind"].default
        return kind if isinstance(kind, str) else None
