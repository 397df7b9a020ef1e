"""A mistake in the settings ends a process with one line; nothing that was written down is passed over."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.production import refuse_unsafe_production
from app.settings import Settings, get_settings

ROOT = Path(__file__).resolve().parents[2]
SAFE: dict[str, Any] = {
    "mode": "production", "api_key_pepper": "p" * 32, "credentials_key": "c" * 32,
    "database_url": "postgresql+psycopg://espalier@db/espalier", "broker_url": "redis://redis:6379/0",
    "store_url": "s3://espalier/v1",
}  # fmt: skip
Read = Callable[..., Settings]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[Read]:
    """Read the settings of a process that has these variables and no others of ours."""
    for name in [name for name in os.environ if name.startswith("ESPALIER_")]:
        monkeypatch.delenv(name)

    def reading(**environment: str) -> Settings:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()
        return get_settings()

    yield reading
    get_settings.cache_clear()


def _bad_file(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "espalier.env"
    if kind == "folder":
        path.mkdir()
    elif kind == "link to nothing":
        path.symlink_to(tmp_path / "gone")
    elif kind == "no text":
        path.write_bytes(b"ESPALIER_MODE=\xff\xfe")
    elif kind == "below a file":
        path.write_text("")
        return path / "more.env"
    return path


@pytest.mark.parametrize("kind", ["missing", "folder", "link to nothing", "no text", "below a file"])
def test_a_file_of_settings_that_cannot_be_read_is_refused_in_one_line(
    kind: str, read: Read, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _bad_file(tmp_path, kind)
    with pytest.raises(SystemExit) as ended:
        read(ESPALIER_ENV_FILE=str(path))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"ESPALIER_ENV_FILE: {path} ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ESPALIER_DATABSE_URL=postgresql://db/x", "did you mean ESPALIER_DATABASE_URL?"),
        ("espalier_mod=production", "did you mean ESPALIER_MODE?"),
        ("ESPALIER_FROBNICATE=1", "ESPALIER_FROBNICATE, which is no setting\n"),
        ("ESPALIER_MODE production", "line 2: not NAME=value"),
        ("ESPALIER_MODE", "line 2: not NAME=value"),
        ("ESPALIER_MODE: production", "line 2: not NAME=value"),
        ("ESPALIER_MODE='production", "line 2: not NAME=value"),
    ],
)
def test_a_line_that_would_be_passed_over_is_refused(
    line: str, said: str, read: Read, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "espalier.env").write_text(f"# ours\n{line}\nESPALIER_PORT=9000\n")
    with pytest.raises(SystemExit):
        read(ESPALIER_ENV_FILE=str(tmp_path / "espalier.env"))
    assert said in capsys.readouterr().err


def test_a_file_of_settings_is_read(read: Read, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "espalier.env").write_text("# ours\n\nexport ESPALIER_PORT='9000'\nespalier_device=cpu\nAWS_REGION=x\n")
    with caplog.at_level(logging.WARNING):
        settings = read(ESPALIER_ENV_FILE=str(tmp_path / "espalier.env"))
    assert (settings.port, settings.device) == (9000, "cpu")
    (told,) = caplog.messages
    assert told.startswith("AWS_REGION in ")


def test_an_unknown_variable_is_told_and_those_of_kubernetes_are_not(
    read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    services = {
        "ESPALIER_API_SERVICE_HOST": "10.0.0.1", "ESPALIER_API_SERVICE_PORT_HTTP": "80",
        "ESPALIER_API_PORT": "tcp://10.0.0.1:80", "ESPALIER_API_PORT_80_TCP": "tcp://10.0.0.1:80",
        "ESPALIER_SERVICE_HOST": "10.0.0.1", "ESPALIER_PORT_80_TCP_ADDR": "10.0.0.1",
    }  # fmt: skip
    with caplog.at_level(logging.WARNING):
        read(ESPALIER_DATABSE_URL="x", **services)
    assert caplog.messages == ["ESPALIER_DATABSE_URL is no setting, and nothing reads it"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("PORT", "tcp://10.0.0.1:80", "setting ESPALIER_PORT: Input should be a valid integer"),
     ("WORKER_CLASSES", "gpu=80e9,cpu=16e9", "setting ESPALIER_WORKER_CLASSES: the classes stand smallest first"),
     ("WORKER_CLASSES", "cpu=16GB", "setting ESPALIER_WORKER_CLASSES: 16GB is no number of bytes"),
     ("WORKER_CLASSES", "cpu=1,cpu=2", "setting ESPALIER_WORKER_CLASSES: every class has a name of its own"),
     ("KEEP_EVENTS_DAYS", "inf", "setting ESPALIER_KEEP_EVENTS_DAYS: Input should be less than or equal to 36500"),
     ("OIDC_ISSUER", "https://id.example", "ESPALIER_OIDC_ISSUER takes ESPALIER_OIDC_CLIENT_ID")],
)  # fmt: skip
def test_a_bad_value_is_told_in_one_line(
    name: str, value: str, said: str, read: Read, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        read(**{f"ESPALIER_{name}": value})
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(said)
    assert told.count("\n") == 1


def test_a_process_that_cannot_read_its_settings_does_not_start(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ESPALIER_")}
    environment = {**kept, "ESPALIER_ENV_FILE": "/nowhere/espalier.env", "ESPALIER_HOME": str(tmp_path / "home")}
    refused = subprocess.run(
        [sys.executable, "-m", "workers.service"], env=environment, cwd=ROOT, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    said = "ESPALIER_ENV_FILE: /nowhere/espalier.env cannot be read: No such file or directory\n"
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", said)
    assert not (tmp_path / "home").exists()


def test_production_starts_with_what_it_needs() -> None:
    refuse_unsafe_production(Settings(**SAFE))


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("broker_url", "", "ESPALIER_BROKER_URL is missing"),
        *(("broker_url", url, "ESPALIER_BROKER_URL is a broker of one machine")
          for url in ("filesystem://", "FileSystem:///tmp/x", "memory://", "sqla+sqlite:///x.db")),
        ("database_url", "", "ESPALIER_DATABASE_URL is missing"),
        ("database_url", "sqlite+pysqlite:////x.db", "ESPALIER_DATABASE_URL is SQLite"),
        ("database_url", "db.example:5432", "ESPALIER_DATABASE_URL is no URL"),
        ("store_url", "", "ESPALIER_STORE_URL is missing"),
        ("store_url", "file:///srv/store", "ESPALIER_STORE_URL is a folder"),
        ("api_key_pepper", "insecure-embedded-pepper", "ESPALIER_API_KEY_PEPPER is the default"),
        ("api_key_pepper", "p" * 15, "ESPALIER_API_KEY_PEPPER has fewer than 16 characters"),
        *(("credentials_key", keys, "ESPALIER_CREDENTIALS_KEY has a key of fewer than 16 characters")
          for keys in ("", "a", "k" * 32 + ", old", ",")),
    ],
)  # fmt: skip
def test_production_refuses_by_name_what_is_missing_or_of_one_machine(field: str, value: str, fault: str) -> None:
    with pytest.raises(ValueError, match="production does not start") as refused:
        refuse_unsafe_production(Settings(**{**SAFE, field: value}))
    assert str(refused.value) == f"production does not start: {fault}"


def test_settings_made_in_code_are_checked_too() -> None:
    with pytest.raises(ValidationError):
        Settings(worker_classes="a=x")
