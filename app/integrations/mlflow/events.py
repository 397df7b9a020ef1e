"""What happens in an MLflow registry, in the words that all registries share, however it was heard of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.integrations.shared.hooks import RegistryEvent


def version_created(name: str, version: str, tags: Mapping[str, str]) -> RegistryEvent:
    """Return the event of a new model version, however it was heard of."""
    return RegistryEvent(
        kind="mlflow",
        event="model_version.created",
        what="version",
        model=name,
        version=version,
        tags=dict(tags),
        dedupe_key=f"version {name}/{version}",
        source=_source(name, version),
        references=_references(name, version),
    )


def alias_set(name: str, alias: str, version: str) -> RegistryEvent:
    """Return the event of an alias that points to a version now, however it was heard of."""
    return RegistryEvent(
        kind="mlflow",
        event="model_version_alias.created",
        what="alias",
        model=name,
        version=version,
        alias=alias,
        dedupe_key=version,
        subject=alias_subject(name, alias),
        source=_source(name, version),
        references=_references(name, version),
    )


def tag_set(name: str, version: str, key: str, value: str) -> RegistryEvent:
    """Return the event of a version that has a tag now, however it was heard of."""
    return RegistryEvent(
        kind="mlflow",
        event="model_version_tag.set",
        what="tag",
        model=name,
        version=version,
        tags={key: value},
        dedupe_key=value,
        subject=f"tag {name}/{version} {key}",
        source=_source(name, version),
        references=_references(name, version),
    )


def alias_subject(name: str, alias: str) -> str:
    """Return what events of an alias are about."""
    return f"alias {name}@{alias}"


def _source(name: str, version: str) -> dict[str, Any]:
    return {"kind": "mlflow", "name": name, "version": version}


def _references(name: str, version: str) -> tuple[str, ...]:
    return (f"models:/{name}/{version}",)
