"""The search for planted secrets finds each kind of leak, and passes what leaks nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sqlalchemy import create_engine, text

from tests.fixtures.suite import canaries

SECRET = "a-canary-of-30-characters-0001"
LEAKS = """
import contextlib, logging, sqlite3, sys
import httpx, pytest

SECRET = "a-canary-of-30-characters-0001"

def call(status=201, body=None, path="/v1/hook-sources", **fields):
    answer = httpx.MockTransport(lambda request: httpx.Response(status, json=body or {"secret": SECRET}))
    with httpx.Client(base_url="http://testserver", transport=answer) as client:
        client.post(path, **fields)

def test_printed(): call(); print(f"made {SECRET}")
def test_logged(): call(); logging.getLogger("a").warning("made %s", SECRET)
def test_in_a_log_file(tmp_path): call(); (tmp_path / "serve.log").write_text(SECRET)
def test_in_a_row(tmp_path):
    call()
    with contextlib.closing(sqlite3.connect(tmp_path / "espalier.db")) as connection:
        connection.execute("CREATE TABLE events (data TEXT)")
        connection.execute("INSERT INTO events VALUES (?)", (SECRET,))
        connection.commit()
def test_echoed_header(): call(403, {"detail": SECRET}, headers={"X-Webhook-Secret": SECRET})
def test_echoed_field(): call(422, {"detail": SECRET}, json={"password": SECRET})
def test_echoed_form(): call(422, {"detail": SECRET}, path="/portal/hooks", data={"secret": SECRET})
def test_told_later(): call(); call(409, {"detail": SECRET})
def test_key_without_its_prefix(): call(body={"key": f"esp_abc_{SECRET}"}); print(SECRET)

def test_clean(tmp_path):
    call()
    call(json={"token": SECRET})
    call(422, {"detail": "no"}, json={"secret": SECRET})
    (tmp_path / "serve.log").write_text("made a source")
    print("a source was made")
def test_of_another_test(): print(SECRET)
"""
LATE = """
import httpx, pytest
from tests.fixtures.suite import canaries

@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")

def test_plants(home):
    canaries.plant_environment({"ESPALIER_HF_TOKEN": "a-canary-of-30-characters-0001", "ESPALIER_HOME": str(home)})

def test_leaks(home):
    (home / "serve.log").write_text("a-canary-of-30-characters-0001")
"""


def _run(folder: Path, code: str) -> str:
    (folder / "test_leaks.py").write_text(code)
    options = ["-q", "-rA", "-p", "tests.fixtures.suite.canaries", "-p", "no:cacheprovider", "-c", "/dev/null"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", str(folder), "--basetemp", str(folder / "tmp"), "."],
        cwd=folder,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_every_way_out_is_found_and_nothing_else(tmp_path: Path) -> None:
    output = _run(tmp_path, LEAKS)
    broken = {line.split("::")[1].split()[0] for line in output.splitlines() if line.startswith("ERROR ")}
    assert broken == {
        "test_printed",
        "test_logged",
        "test_in_a_log_file",
        "test_in_a_row",
        "test_echoed_header",
        "test_echoed_field",
        "test_echoed_form",
        "test_told_later",
        "test_key_without_its_prefix",
    }, output
    assert "11 passed" in output


def test_an_installation_that_outlives_its_tests_is_searched_at_the_end(tmp_path: Path) -> None:
    output = _run(tmp_path, LATE)
    assert "ERROR test_leaks.py::test_leaks" in output, output
    assert "stands in serve.log" in output


def test_a_row_of_postgres_is_searched(postgres_url: str) -> None:
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE TABLE leak (data jsonb)"))
        connection.execute(
            text("INSERT INTO leak VALUES (jsonb_build_object('a', cast(:secret AS text)))"), {"secret": SECRET}
        )
        canaries.plant([SECRET])
        canaries.search_postgres(url)
        connection.execute(text("DROP TABLE leak"))
    engine.dispose()
    assert canaries.taken() == ["a secret (a-ca..., 30 characters) stands in the table leak"]
