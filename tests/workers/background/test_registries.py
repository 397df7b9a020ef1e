"""What an MLflow registry's deliveries have lost is found by looking, once, and nothing that was there before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select

from app.db.hook import HookDelivery, HookSource
from app.db.session import Database
from app.integrations.mlflow.credentials import MlflowCredential
from app.integrations.mlflow.events import alias_set, version_created
from app.platform.actor import DEFAULT_PROJECT
from app.services.hooks.inbox import record_event
from app.services.tenancy import credentials
from app.settings import Settings
from tests.fixtures.servers.mlflow import MlflowServer, basic, mlflow
from tests.fixtures.service.rows import hook_source
from workers.background.registries import RegistrySweep

__all__ = ["mlflow"]


@pytest.fixture
def registry(database_url: str, mlflow: MlflowServer) -> Iterator[Registry]:
    registry = Registry(database_url, mlflow)
    yield registry
    registry.database.dispose()


class Registry:
    """A source of events, and a sweep of the registry behind it."""

    def __init__(self, url: str, server: MlflowServer) -> None:
        self.database, self.server = Database(url), server
        self.settings = Settings(database_url=url, mlflow_tracking_uri=server.url)
        with self.database.unit_of_work() as session:
            self.source = hook_source(session, DEFAULT_PROJECT)
        self.made = int(self.source.created_at.timestamp() * 1000)

    def register(self, name: str, *, after: int, **tags: str) -> str:
        """Register a version so many milliseconds after the source was made."""
        marks = [{"key": key, "value": value} for key, value in tags.items()]
        return self.server.register(name, creation_timestamp=self.made + after, tags=marks)

    def sweep(self) -> int:
        """Look now, whatever the pause."""
        with self.database.unit_of_work() as session:
            source = session.get_one(HookSource, self.source.id)
            source.cursor = {key: value for key, value in (source.cursor or {}).items() if key != "next_at"} or None
        return RegistrySweep(self.database, self.settings).poll_once() or 0

    def events(self) -> list[tuple[str, str, str | None, str]]:
        """(event, model, version, via) of everything that is written down."""
        with self.database.reading() as session:
            rows = session.scalars(select(HookDelivery).order_by(HookDelivery.id)).all()
        return [(row.event["event"], row.event["model"], row.event["version"], row.via) for row in rows]

    def hear(self, event: Any) -> None:
        """Take an event as its delivery would be."""
        with self.database.unit_of_work() as session:
            record_event(session, session.get_one(HookSource, self.source.id), event, via="webhook")


def test_a_lost_version_is_found_once_and_what_was_there_before_is_not(registry: Registry) -> None:
    registry.register("old", after=-5000)
    registry.register("new", after=5000, stage="x")
    assert registry.sweep() == 1
    assert registry.sweep() == 0
    assert registry.events() == [("model_version.created", "new", "1", "reconciliation")]
    registry.register("new", after=6000)
    assert registry.sweep() == 1


def test_a_version_that_was_delivered_is_no_news(registry: Registry) -> None:
    registry.register("demo", after=10)
    registry.hear(version_created("demo", "1", {}))
    assert registry.sweep() == 0
    registry.register("demo", after=20)
    assert registry.sweep() == 1
    registry.hear(version_created("demo", "2", {}))  # the delivery comes after all
    assert [via for *_, via in registry.events()] == ["webhook", "reconciliation"]


def test_aliases_count_when_they_move_and_not_when_they_were_there(registry: Registry) -> None:
    registry.register("demo", after=-9)
    registry.server.aliases["demo", "champion"] = "1"
    assert registry.sweep() == 0
    registry.register("demo", after=-8)
    registry.server.aliases["demo", "champion"] = "2"
    registry.server.aliases["demo", "small"] = "1"
    registry.hear(alias_set("demo", "small", "1"))
    assert registry.sweep() == 1
    assert registry.events()[-1] == ("model_version_alias.created", "demo", "2", "reconciliation")
    assert registry.sweep() == 0
    registry.server.aliases["demo", "champion"] = "1"  # back again: news, though it was there once
    assert registry.sweep() == 1


def test_prompts_and_versions_that_are_not_ready_are_left_out(registry: Registry) -> None:
    registry.register("prompt", after=5, **{"mlflow.prompt.is_prompt": "true"})
    registry.server.register("slow", creation_timestamp=registry.made + 6, status="PENDING_REGISTRATION")
    assert registry.sweep() == 0
    registry.server.registered["slow"][0]["status"] = "READY"
    assert registry.sweep() == 1


def test_more_than_a_page_is_read(registry: Registry) -> None:
    for index in range(230):
        registry.register("many", after=index)
    assert registry.sweep() == 230
    assert registry.sweep() == 0


def test_a_registry_that_is_away_is_looked_at_again_and_a_login_is_sent(registry: Registry) -> None:
    registry.register("demo", after=5)
    registry.server.broken = 1
    assert registry.sweep() == 0
    registry.server.login = basic("anna", "secret")
    assert registry.sweep() == 0
    login = MlflowCredential(username="anna", password="secret")
    credentials.put(registry.database, registry.settings, "prj_default", "mlflow", login, hint="")
    assert registry.sweep() == 1


def test_two_reconcilers_poll_once(registry: Registry) -> None:
    registry.register("demo", after=5)
    sweeps = [RegistrySweep(registry.database, registry.settings) for _ in range(2)]
    assert [sweep.poll_once() for sweep in sweeps] == [1, None]
    assert len([path for _, path in registry.server.asked if path.endswith("model-versions/search")]) == 1
