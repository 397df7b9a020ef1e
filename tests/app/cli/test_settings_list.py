"""`espalier settings` tells every knob and its origin, and no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.settings import Settings
from tests.app.cli.command import Espalier


@pytest.fixture
def listed(espalier: Espalier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    env_file = tmp_path / "espalier.env"
    env_file.write_text("ESPALIER_LEASE_SECONDS=8\nESPALIER_PORT=9000\nESPALIER_HF_TOKEN=hf_secret\n")
    monkeypatch.setenv("ESPALIER_ENV_FILE", str(env_file))
    monkeypatch.setenv("ESPALIER_PORT", "9001")
    monkeypatch.setenv("ESPALIER_HOME", str(tmp_path))
    monkeypatch.setenv("ESPALIER_DATABASE_URL", "postgresql+psycopg://me:pass@db/espalier")
    monkeypatch.setenv("ESPALIER_API_KEY_PEPPER", "very-secret")
    return {row["name"]: row for row in json.loads(espalier("settings", "--json").out)}


def test_every_setting_is_there_with_its_meaning(listed: dict[str, dict[str, str]]) -> None:
    assert set(listed) == {f"ESPALIER_{field.upper()}" for field in Settings.model_fields}
    assert all(row["meaning"] for row in listed.values())


def test_the_origin_is_the_one_that_won(listed: dict[str, dict[str, str]], tmp_path: Path) -> None:
    assert (listed["ESPALIER_PORT"]["value"], listed["ESPALIER_PORT"]["origin"]) == ("9001", "environment")
    lease = listed["ESPALIER_LEASE_SECONDS"]
    assert (lease["value"], lease["origin"]) == ("8.0", str(tmp_path / "espalier.env"))
    assert listed["ESPALIER_DEVICE"] == listed["ESPALIER_DEVICE"] | {"value": "auto", "origin": "default"}


def test_what_follows_from_others_is_shown_in_force(listed: dict[str, dict[str, str]], tmp_path: Path) -> None:
    assert listed["ESPALIER_CACHE_DIR"]["value"] == str(tmp_path / "cache")
    assert listed["ESPALIER_STORE_URL"]["value"] == f"file://{tmp_path}/store"


def test_no_secret_is_printed(listed: dict[str, dict[str, str]], espalier: Espalier) -> None:
    assert listed["ESPALIER_DATABASE_URL"]["value"] == "postgresql+psycopg://me:********@db/espalier"
    for text in (json.dumps(listed), espalier("settings").out):
        assert not any(secret in text for secret in ("hf_secret", "very-secret", ":pass@"))
