"""A page, a command and an endpoint are one file: dropped into a copy of the service it is served, without an edit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = '''
"""What a newcomer shows."""

from fastapi import APIRouter
from starlette.responses import HTMLResponse

from app.portal.deps import needs
from app.portal.navigation import MenuEntry

router = APIRouter(dependencies=[needs("jobs:read")])
NAVIGATION = MenuEntry("Newcomers", "/portal/newcomers", 95)


@router.get("/newcomers")
def newcomers_page() -> HTMLResponse:
    """Greet."""
    return HTMLResponse("<p>here I am</p>")
'''
COMMAND = '''
"""The command of a newcomer."""

import typer

commands = typer.Typer()


@commands.command()
def greet(name: str) -> None:
    """Greet somebody."""
    print(f"good morning, {name}")
'''
ENDPOINT = '''
"""The endpoint of a newcomer."""

from fastapi import APIRouter

from app.api.views import View

router = APIRouter(prefix="/v1/newcomers", tags=["newcomers"])


class NewcomerView(View):
    """Somebody new."""

    name: str


@router.get("")
def list_newcomers() -> list[NewcomerView]:
    """List who came."""
    return [NewcomerView(name="Ada")]
'''
SERVED = """
import sys
from fastapi.testclient import TestClient
from app.db.migrate import run_migrations
from app.main import create_app
from app.settings import Settings
settings = Settings(home=sys.argv[1] + "/home", database_url=f"sqlite:///{sys.argv[1]}/espalier.db")
run_migrations(settings.database)
app = create_app(settings)
with TestClient(app, base_url="http://127.0.0.1:8000") as client:
    %s
"""
CASES = {
    "a page of the portal": (
        "app/portal/pages/newcomers.py",
        PAGE,
        SERVED % 'assert "here I am" in client.get("/portal/newcomers").text\n'
        '    assert ">Newcomers</a>" in client.get("/portal/methods").text',
    ),
    "a command": (
        "app/cli/commands/newcomers.py",
        COMMAND,
        'import sys; sys.argv[1:] = ["greet", "Ada"]; from app.cli.main import main; main()',
    ),
    "an endpoint": (
        "app/api/endpoints/newcomers.py",
        ENDPOINT,
        SERVED % 'assert client.get("/v1/newcomers").json() == [{"name": "Ada"}]\n'
        '    assert "get" in client.get("/openapi.json").json()["paths"]["/v1/newcomers"]',
    ),
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the service and its migrations; the library is the one that is installed."""
    for folder in ("app", "migrations"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.deep
@pytest.mark.parametrize("case", CASES)
def test_a_dropped_file_is_served(case: str, copy: Path) -> None:
    place, source, use = CASES[case]
    without = _run(use, copy)
    assert without.returncode != 0, "there was one before"
    (copy / place).write_text(source.lstrip())
    done = _run(use, copy)
    assert done.returncode == 0, done.stderr
    assert ("good morning, Ada" in done.stdout) == (case == "a command")


@pytest.mark.deep
@pytest.mark.parametrize("place", [place for place, _, _ in CASES.values()])
def test_a_file_that_offers_nothing_stops_the_process(place: str, copy: Path) -> None:
    (copy / place).write_text('"""Forgot what it is for."""\n')
    done = _run("import app.cli.main, app.main; app.main.create_app()", copy)
    assert done.returncode != 0
    assert "TypeError" in done.stderr
    assert ".newcomers has no `" in done.stderr


def _run(code: str, copy: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, str(copy)]
    return subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
