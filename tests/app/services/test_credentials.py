"""Credentials are sealed at rest, open for their project only, and shown to nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.main import create_app
from app.services.tenancy import credentials
from app.settings import Settings

CANARY = "hf_CanaryCanaryCanary1234"


@pytest.fixture
def settings(sqlite_url: str, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, database_url=sqlite_url)


def test_a_credential_is_sealed_and_only_its_end_is_shown(settings: Settings) -> None:
    app = create_app(settings)
    with TestClient(app) as client:
        answer = client.put("/v1/credentials/huggingface", json={"token": CANARY})
        assert answer.status_code == 200, answer.text
        database = app.state.resources.database
        shown = answer.text + client.get("/v1/credentials").text + client.get("/v1/audit-events").text
        with database.reading() as session:
            shown += str(session.execute(text("SELECT * FROM credentials")).all())
        assert CANARY not in shown
        assert answer.json()["hint"] == "1234"
        assert credentials.opened(database, settings, "prj_default", "huggingface") == {"token": CANARY}
        assert credentials.opened(database, settings, "prj_other", "huggingface") == {}
        assert client.delete("/v1/credentials/huggingface").status_code == 204
        assert client.delete("/v1/credentials/huggingface").status_code == 404


def test_keys_rotate_and_a_lost_key_opens_nothing(settings: Settings) -> None:
    def with_keys(keys: str) -> Settings:
        return Settings(home=settings.home, database_url=settings.database_url, credentials_key=keys)

    app = create_app(with_keys("old"))
    with TestClient(app) as client:
        client.put("/v1/credentials/s3", json={"access_key_id": "a" * 8, "secret_access_key": CANARY})
        database = app.state.resources.database
        assert credentials.opened(database, with_keys("new, old"), "prj_default", "s3")["secret_access_key"] == CANARY
        assert credentials.opened(database, with_keys("new"), "prj_default", "s3") == {}


def test_a_refused_credential_is_not_echoed(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        answer = client.put("/v1/credentials/huggingface", json={"token": f"{CANARY} {CANARY}"})
        assert answer.status_code == 422
        assert CANARY not in answer.text
