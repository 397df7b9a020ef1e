"""What is installed has a name of its own, and every word about installing it names that and nobody else's."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db.lifecycle import TERMINAL
from app.portal.spec_form import snippets
from espalier.client import ENDINGS, Client
from espalier.version import VERSION
from tests.fixtures.suite.distributions import HOMES, SERVICE, project

ROOT = Path(__file__).resolve().parents[2]
OURS = set(HOMES)
TOLD = [
    path
    for pattern in (
        "*.md",
        "Makefile",
        ".env.example",
        "docker-compose.yml",
        "docker/*",
        "docs/*.md",
        "app/**/*.py",
        "app/**/*.html",
        "espalier/**/*.py",
        "workers/**/*.py",
    )
    for path in sorted(ROOT.glob(pattern))
]
WITH_VALUE = {"-c", "-r", "--extra-index-url", "--index-url"}


def installed(text: str) -> Iterator[str]:
    """What each `pip install` of a text asks for by name; paths, files and options are no names."""
    for line in re.findall(r"pip install ((?:'[^'\n]*'|\$\{[^}]*\}|\$\([^)]*\)|[^'`\"\n&;)])*)", text):
        words = iter(re.sub(r"\$\{[^}]*\}|\$\([^)]*\)|#.*|'", "", line).split())
        for word in words:
            if word in WITH_VALUE:
                next(words, None)
            elif re.match(r"[A-Za-z]", word):
                yield re.split(r"[\[<>=~!]", word)[0].lower()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("run `pip install 'espalier[otel]'` first", ["espalier"]),
        ("pip install -c x.txt -e '.[worker,test]'", []),
        ("pip install ${INDEX:+--extra-index-url $INDEX} -e '.[a]' && true", []),
        ("pip install Torch>=2", ["torch"]),
    ],
)
def test_the_reader_of_install_commands_finds_names(text: str, names: list[str]) -> None:
    assert list(installed(text)) == names


def test_nothing_tells_to_install_another_package() -> None:
    names_of = {str(path.relative_to(ROOT)): set(installed(path.read_text())) - OURS for path in TOLD if path.is_file()}
    assert {file: names for file, names in names_of.items() if names} == {}
    extras = {
        extra
        for path in TOLD
        if path.is_file()
        for group in re.findall(r"(?:'\.|espalier-service)\[([a-z,]+)\]", path.read_text())
        for extra in group.split(",")
    }
    assert extras <= set(project(SERVICE)["project"]["optional-dependencies"])
    assert {"otel", "tasks", "worker"} <= extras


def test_the_command_tells_its_version() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from app.cli.main import main; main()", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.fullmatch(rf"espalier {re.escape(VERSION)} \(engine \d+, Python 3[\d.]+\S*\)\n", done.stdout)


def test_the_client_works_beside_an_app_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/__init__.py").write_text("")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n" + "\n".join(
        line
        for line in snippets.every({}, "http://127.0.0.1:1", keyed=True)["Python"].splitlines()
        if line.startswith(("import", "from"))
    )
    code += "\nimport app; print(Client('http://127.0.0.1:1').submit.__name__, app.__file__)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    assert ran.stdout == f"submit {tmp_path / 'app/__init__.py'}\n"


def test_the_old_name_of_the_client_still_leads_there() -> None:
    with pytest.warns(DeprecationWarning, match="from espalier import Client"):
        old = importlib.reload(importlib.import_module("app.client"))
    assert old.Client is Client


def test_the_client_knows_every_ending() -> None:
    assert {f"job.{state}" for state in TERMINAL} == ENDINGS
