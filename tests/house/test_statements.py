"""SQL statements stand in `app/db/queries` alone: who asks for rows says what for, and never how."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUERIES = ROOT / "app" / "db" / "queries"
WRITES_ITSELF = ROOT / "app" / "db" / "session.py"
"""Inserts the rows that a transaction put off, and asks for the database's time."""
HOLDING = {"Session", "Connection", "make_url"}
"""What a caller needs of SQLAlchemy to hold a transaction that others read and write in; beside its errors."""
CONSTRUCTORS = {"select", "insert", "update", "delete"}
READING = {"execute", "scalar", "scalars", "get", "get_one", "query", "merge", "refresh", "exec_driver_sql"}
"""Methods of a session or a connection that send a statement; `add`, `flush` and `delete` of a row do not name one."""


def test_a_statement_stands_in_the_queries() -> None:
    files = [path for folder in ("app", "espalier", "workers") for path in (ROOT / folder).rglob("*.py")]
    outside = [path for path in files if not path.is_relative_to(QUERIES) and path != WRITES_ITSELF]
    statements = [f"{path.relative_to(ROOT)}:{line} {what}" for path in outside for line, what in _statements(path)]
    assert len(outside) > 400
    assert statements == []


@pytest.mark.parametrize(
    "text",
    [
        "from sqlalchemy import select",
        "from sqlalchemy.orm import aliased",
        "from sqlalchemy.dialects import postgresql",
        "import sqlalchemy.sql",
        "row = session.get(Job, job_id)",
        "self._connection.execute(statement)",
    ],
)
def test_a_statement_elsewhere_is_noticed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "elsewhere.py"
    path.write_text(f"from sqlalchemy.exc import DBAPIError\nfrom sqlalchemy.orm import Session\n{text}\n")
    assert [line for line, _ in _statements(path)] == [3]


@pytest.mark.parametrize("faces", ["app/api/endpoints", "app/portal/pages"])
def test_an_endpoint_or_a_page_asks_a_service_and_opens_no_session(faces: str) -> None:
    files = list((ROOT / faces).rglob("*.py"))
    sessions = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in {"reading", "unit_of_work", "session"}
    ]
    assert len(files) > 10
    assert sessions == []


def _statements(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the words of what makes or sends a statement."""
    tables = path.is_relative_to(ROOT / "app" / "db")  # which name columns, indexes and defaults
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "sqlalchemy" for alias in node.names):
            yield node.lineno, "import sqlalchemy"
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sqlalchemy":
            names = {alias.name for alias in node.names}
            refused = names & CONSTRUCTORS if tables else names - HOLDING
            if refused and node.module != "sqlalchemy.exc":
                yield node.lineno, f"import {', '.join(sorted(refused))}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not tables:
            holder = ast.unparse(node.func.value).rpartition(".")[2].strip("_")
            if node.func.attr in READING and holder in {"session", "connection"}:
                yield node.lineno, f"{holder}.{node.func.attr}"
