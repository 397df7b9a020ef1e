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
    "mode": "production",
    "api_key_pepper": "p" * 32,
    "credentials_key": "c" * 32,
    "database_url": "postgresql+psycopg://espalier@db/espalier",
    "broker_url": "redis://redis:6379/0",
    "store_url": "s3://espalier/v1",
}
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
    printed = capsys.readouterr().err
    assert printed.startswith(f"ESPALIER_ENV_FILE: {path} ")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "message"),
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
    line: str, message: str, read: Read, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "espalier.env").write_text(f"# ours\n{line}\nESPALIER_PORT=9000\n")
    with pytest.raises(SystemExit):
        read(ESPALIER_ENV_FILE=str(tmp_path / "espalier.env"))
    assert message in capsys.readouterr().err


def test_a_file_of_settings_is_read(read: Read, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "espalier.env").write_text("# ours\n\nexport ESPALIER_PORT='9000'\nespalier_device=cpu\nAWS_REGION=x\n")
    with caplog.at_level(logging.WARNING):
        settings = read(ESPALIER_ENV_FILE=str(tmp_path / "espalier.env"))
    assert (settings.port, settings.device) == (9000, "cpu")
    (warning,) = caplog.messages
    assert warning.startswith("AWS_REGION in ")


def test_an_unknown_variable_is_told_and_those_of_kubernetes_are_not(
    read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    services = {
        "ESPALIER_API_SERVICE_HOST": "10.0.0.1",
        "ESPALIER_API_SERVICE_PORT_HTTP": "80",
        "ESPALIER_API_PORT": "tcp://10.0.0.1:80",
        "ESPALIER_API_PORT_80_TCP": "tcp://10.0.0.1:80",
        "ESPALIER_SERVICE_HOST": "10.0.0.1",
        "ESPALIER_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    with caplog.at_level(logging.WARNING):
        read(ESPALIER_DATABSE_URL="x", **services)
    assert caplog.messages == ["ESPALIER_DATABSE_URL is no setting, and nothing reads it"]


ADDRESSES = (
    "HF_ENDPOINT",
    "S3_ENDPOINT_URL",
    "PUBLISH_S3_ENDPOINT_URL",
    "OTEL_ENDPOINT",
    "URL",
    "PUBLIC_URL",
    "OIDC_ISSUER",
    "MLFLOW_TRACKING_URI",
)
SPANS = ("LEASE_SECONDS", "KEEP_LOGS_DAYS", "MAX_RUN_SECONDS", "DEFAULT_RUN_SECONDS", "PORTAL_SESSION_HOURS")
REFUSED: dict[str, list[str]] = {
    "Input should be a valid integer": ["PORT=tcp://10.0.0.1:80"],
    "Input should be less than or equal to 65535": ["PORT=65536"],
    "give a name or an address": ["HOST=http://0.0.0.0"],
    "Input should be 'embedded' or 'production'": ["MODE=prod"],
    "give a SQLAlchemy URL: sqlite:////": [
        *(f"DATABASE_URL={url}" for url in ("mysql://a", "postgresql+asyncpg://a/b", "/var/lib/espalier.db")),
        *(f"DATABASE_URL={url}" for url in ("sqlite://", "sqlite:///:memory:")),  # in memory: of one process
    ],
    "give a Redis (redis://host:6379/0, rediss://...) or filesystem://": [
        f"BROKER_URL={url}" for url in ("amqp://rabbit", "memory://", "redis.example:6379")
    ],
    "give file:///folder or s3://bucket/prefix": [
        f"STORE_URL={url}" for url in ("gs://bucket", "file://relative/folder", "s3://", "/srv/store")
    ],
    "give an http or https address": [
        *(
            f"{name}={value}"
            for name in ADDRESSES
            for value in ("ftp://x", "x.example", "http://", "https://x:port", "http://a b", "http://a?b=c")
        ),
        "PUBLIC_URL=https://x.example/espalier",
    ],
    "10.0.0.1/8 has host bits set": ["WEBHOOK_ALLOWED_CIDRS=10.0.0.1/8"],
    "the classes stand smallest first": ["WORKER_CLASSES=gpu=80e9,cpu=16e9"],
    "16GB is no number of bytes": ["WORKER_CLASSES=cpu=16GB"],
    "name each class by at most 64": [
        f"WORKER_CLASSES={name}" for name in ("cpu:5", "a/b=5", "a b=5", "../x", "x" * 65)
    ],
    "give a worker 1, 2, 4 or 8 cards": ["WORKER_CLASSES=gpu=80e9x3", "WORKER_CLASSES=gpu=80e9x"],
    "every class has a name of its own": ["WORKER_CLASSES=cpu=1,cpu=2"],
    "give a number of bytes above 0": [f"WORKER_CLASSES=cpu={number}" for number in ("0", "-1", "nan")],
    "Input should be": [f"{name}={value}" for name in SPANS for value in ("inf", "nan", "-1", "1e300")],
    "Input should be less than or equal to 36500": ["KEEP_EVENTS_DAYS=1000000"],
    "Input should be greater than 0": ["MAX_RUN_SECONDS=0", "SCRATCH_MAX_BYTES=0"],
    "Input should be greater than or equal to 1": ["THREADS=0"],
    "Input should be less than or equal to 4096": ["THREADS=100000"],
    "write it out": [f"{name}=~/folder" for name in ("HOME", "CACHE_DIR", "SCRATCH_DIR", "TASKS_DIR", "LOCAL_ROOTS")],
}


@pytest.mark.parametrize(
    ("given", "message"), [(given, message) for message, every in REFUSED.items() for given in every]
)
def test_a_value_that_cannot_be_served_is_told_in_one_line_at_the_start(
    given: str, message: str, read: Read, capsys: pytest.CaptureFixture[str]
) -> None:
    name, _, value = given.partition("=")
    with pytest.raises(SystemExit) as ended:
        read(**{f"ESPALIER_{name}": value})
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"setting ESPALIER_{given}: {message}")
    assert printed.count("\n") == 1


SERVED: list[tuple[str, str]] = [
    *(
        ("DATABASE_URL", f"{scheme}://user:p%40ss@host:5432/name?sslmode=require")
        for scheme in ("postgresql", "postgres", "postgresql+psycopg")
    ),
    *(
        ("DATABASE_URL", url)
        for url in ("sqlite:////srv/x.db", "sqlite+pysqlite:////srv/x.db", "postgresql:///x?host=/s")
    ),
    *(
        ("BROKER_URL", url)
        for url in ("redis://:secret@host:6379/0", "rediss://host", "redis+socket:///run/redis.sock", "filesystem://")
    ),
    *(("STORE_URL", url) for url in ("s3://bucket", "s3://bucket/a/b", "file:///srv/a%20store")),
    *(
        ("HF_ENDPOINT", url)
        for url in (
            "https://hub.example",
            "http://[::1]:8080",
            "http://10.0.0.1:80/mirror/",
            "https://me:pw@mirror.example",
        )
    ),
    *(("HOST", host) for host in ("0.0.0.0", "::", "localhost", "node-1.example")),
    ("CACHE_DIR", "/nowhere/yet"),
    ("LOCAL_ROOTS", "/nowhere/yet:/srv:"),
    ("CACHE_MAX_BYTES", "0"),
]


@pytest.mark.parametrize(("name", "value"), SERVED)
def test_a_value_that_can_be_served_is_taken(name: str, value: str, read: Read) -> None:
    assert str(getattr(read(**{f"ESPALIER_{name}": value}), name.lower())) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://user:{}@host/x"),
        ("DATABASE_URL", "mysql://user:a/{}@host/x"),
        ("DATABASE_URL", "mysql://host/x?user=a&password={}"),
        ("DATABASE_URL", "host=db password={} user=x"),
        ("BROKER_URL", "amqp://:{}@rabbit"),
        ("HF_ENDPOINT", "ftp://{}@mirror.example"),
        ("OTEL_ENDPOINT", "http://collector?token={}"),
    ],
)
def test_no_password_is_told(name: str, value: str, read: Read, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read(**{f"ESPALIER_{name}": value.format("hunter2")})
    printed = capsys.readouterr().err
    assert "hunter2" not in printed
    assert "********" in printed
    fields: dict[str, Any] = {name.lower(): value.format("hunter2")}
    with pytest.raises(ValidationError) as refused:
        Settings(**fields)
    assert "hunter2" not in str(refused.value)


def test_a_secret_that_is_no_key_is_refused_without_its_value(read: Read, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read(ESPALIER_CREDENTIALS_KEY=", ,")
    assert capsys.readouterr().err == "setting ESPALIER_CREDENTIALS_KEY: give one key, or several with commas between\n"


HALVES: list[tuple[dict[str, str], str]] = [
    ({"OIDC_ISSUER": "https://id.example"}, "ESPALIER_OIDC_ISSUER takes ESPALIER_OIDC_CLIENT_ID"),
    ({"MLFLOW_USERNAME": "u"}, "ESPALIER_MLFLOW_USERNAME and ESPALIER_MLFLOW_PASSWORD come together"),
    ({"MLFLOW_PASSWORD": "p"}, "ESPALIER_MLFLOW_USERNAME and ESPALIER_MLFLOW_PASSWORD come together"),
]


@pytest.mark.parametrize(("given", "message"), HALVES)
def test_half_of_what_belongs_together_is_refused(
    given: dict[str, str], message: str, read: Read, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read(**{f"ESPALIER_{name}": value for name, value in given.items()})
    assert capsys.readouterr().err == f"{message}\n"


@pytest.mark.parametrize("name", ["HOME", "CACHE_DIR", "SCRATCH_DIR", "TASKS_DIR", "STORE_URL", "LOCAL_ROOTS"])
@pytest.mark.parametrize("below", [False, True], ids=["a file", "below a file"])
def test_a_folder_that_is_a_file_is_refused(
    name: str, read: Read, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, below: bool
) -> None:
    file = tmp_path / "file"
    file.touch()
    value = f"{'file://' if name == 'STORE_URL' else ''}{file / 'folder' if below else file}"
    with pytest.raises(SystemExit):
        read(**{f"ESPALIER_{name}": value})
    assert capsys.readouterr().err == f"setting ESPALIER_{name}={value}: {file} is a file: give the path of a folder\n"


OVERLAPS: list[tuple[dict[str, str], str]] = [
    ({"CACHE_DIR": "a", "SCRATCH_DIR": "a"}, "SCRATCH_DIR={0}/a lies in ESPALIER_CACHE_DIR={0}/a"),
    ({"CACHE_DIR": "a/b", "SCRATCH_DIR": "a"}, "CACHE_DIR={0}/a/b lies in ESPALIER_SCRATCH_DIR={0}/a"),
    ({"CACHE_DIR": "home/store/x"}, "CACHE_DIR={0}/home/store/x lies in ESPALIER_STORE_URL=file://{0}/home/store"),
    ({"CACHE_DIR": "link", "SCRATCH_DIR": "home"}, "SCRATCH_DIR={0}/home lies in ESPALIER_CACHE_DIR={0}/link"),
    ({"STORE_URL": "home"}, "CACHE_DIR={0}/home/cache lies in ESPALIER_STORE_URL=file://{0}/home"),
    ({"SCRATCH_DIR": "home/bell"}, "HOME={0}/home/bell lies in ESPALIER_SCRATCH_DIR={0}/home/bell"),
    ({"TASKS_DIR": "home/scratch/x"}, "TASKS_DIR={0}/home/scratch/x lies in ESPALIER_SCRATCH_DIR={0}/home/scratch"),
    ({"DATABASE_URL": "a/x", "CACHE_DIR": "a"}, "DATABASE_URL=sqlite:///{0}/a/x lies in ESPALIER_CACHE_DIR={0}/a"),
]


@pytest.mark.parametrize(("given", "message"), OVERLAPS)
def test_folders_that_would_be_cleared_with_another_are_refused(
    given: dict[str, str], message: str, read: Read, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    schemes = {"STORE_URL": "file://", "DATABASE_URL": "sqlite:///"}
    paths = {f"ESPALIER_{name}": f"{schemes.get(name, '')}{tmp_path}/{value}" for name, value in given.items()}
    with pytest.raises(SystemExit):
        read(ESPALIER_HOME=str(tmp_path / "home"), **paths)
    printed = capsys.readouterr().err
    assert printed == f"ESPALIER_{message.format(tmp_path)}: give each a folder of its own\n"


def test_a_process_that_cannot_read_its_settings_does_not_start(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ESPALIER_")}
    environment = {**kept, "ESPALIER_ENV_FILE": "/nowhere/espalier.env", "ESPALIER_HOME": str(tmp_path / "home")}
    refused = subprocess.run(
        [sys.executable, "-m", "workers.service"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    message = "ESPALIER_ENV_FILE: /nowhere/espalier.env cannot be read: No such file or directory\n"
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", message)
    assert not (tmp_path / "home").exists()


def test_production_starts_with_what_it_needs() -> None:
    refuse_unsafe_production(Settings(**SAFE))


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("broker_url", "", "ESPALIER_BROKER_URL is missing"),
        ("broker_url", "filesystem://", "ESPALIER_BROKER_URL is a broker of one machine"),
        ("database_url", "", "ESPALIER_DATABASE_URL is missing"),
        ("database_url", "sqlite+pysqlite:////x.db", "ESPALIER_DATABASE_URL is SQLite"),
        ("store_url", "", "ESPALIER_STORE_URL is missing"),
        ("store_url", "file:///srv/store", "ESPALIER_STORE_URL is a folder"),
        ("api_key_pepper", "insecure-embedded-pepper", "ESPALIER_API_KEY_PEPPER is the default"),
        ("api_key_pepper", "p" * 15, "ESPALIER_API_KEY_PEPPER has fewer than 16 characters"),
        *(
            ("credentials_key", keys, "ESPALIER_CREDENTIALS_KEY has a key of fewer than 16 characters")
            for keys in ("a", "k" * 32 + ", old")
        ),
    ],
)
def test_production_refuses_by_name_what_is_missing_or_of_one_machine(field: str, value: str, fault: str) -> None:
    with pytest.raises(ValueError, match="production does not start") as refused:
        refuse_unsafe_production(Settings(**{**SAFE, field: value}))
    assert str(refused.value) == f"production does not start: {fault}"


def test_settings_made_in_code_are_checked_too() -> None:
    with pytest.raises(ValidationError):
        Settings(worker_classes="a=x")
