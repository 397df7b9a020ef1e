"""The batteries of hostile input and the table of tenants, counted for the table of figures.

The cases and what is asked of each one stand in tests/app; here they are run as one, and what gets through is counted.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.platform.outbound import ForbiddenAddress, check_literal, parse
from app.settings import Settings
from espalier.errors import SourceRefused
from espalier.families import FAMILIES
from espalier.probe import probe
from espalier.probe.config import parse_config
from tests.app.api.foreign_ids import ask_of_both
from tests.app.platform.hostile_urls import HOSTILE_URLS
from tests.espalier.probe.checkpoints import LLAMA, write_model
from tests.espalier.probe.hostile_configs import MORE_CODE, NAMES_CODE, UNSUPPORTED, WRONG, WRONG_FOR
from tests.espalier.probe.hostile_headers import BAD
from tests.espalier.probe.published import MODELS, PUBLISHED
from tests.fixtures.suite.figures import record

pytestmark = pytest.mark.load


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every look-up and connection that is tried; none succeeds."""
    tried: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> Any:
        tried.append(arguments)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


def _escapes(
    cases: Iterable[Any], read: Callable[[Any], object], refusal: type[Exception]
) -> list[tuple[Any, Exception | None]]:
    """The cases that are taken, or fail otherwise than by a refusal."""
    outcomes: list[tuple[Any, Exception | None]] = []
    for case in cases:
        try:
            read(case)
        except refusal:
            continue
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no refusal
            outcomes.append((case, error))
        else:
            outcomes.append((case, None))
    return outcomes


def test_no_form_of_a_hostile_address_is_called(connections: list[Any]) -> None:
    urls = sorted(set(HOSTILE_URLS))
    escaped = _escapes(urls, lambda url: check_literal(parse(url), ()), ForbiddenAddress)
    record(
        "bad input",
        "forms of hostile addresses (SSRF)",
        ">= 60, 0 outbound connections",
        f"{len(urls)} forms, {len(escaped)} taken, {len(connections)} look-ups or connections",
    )
    assert not escaped
    assert not connections
    assert len(urls) >= 60


def test_no_hostile_safetensors_file_is_taken(tmp_path: Path, connections: list[Any]) -> None:
    folder = write_model(tmp_path)

    def read(content: bytes) -> None:
        (folder / "model.safetensors").write_bytes(content)
        probe(folder)

    files = list(BAD.values())
    escaped = _escapes(files, read, SourceRefused)
    record(
        "bad input",
        "safetensors files",
        ">= 40, 0 code run",
        f"{len(files)} files, {len(escaped)} taken; nothing but their headers is read",
    )
    assert not escaped
    assert not connections
    assert len(files) >= 40


def test_no_hostile_config_is_taken_and_every_published_one_is(connections: list[Any]) -> None:
    code = [LLAMA | extra for extra in (NAMES_CODE | MORE_CODE).values()]
    wrong = [MODELS[family] | changes for family, each in WRONG_FOR.items() for changes in each]
    hostile = [*code, *wrong, *[LLAMA | changes for changes in (UNSUPPORTED | WRONG).values()]]
    escaped = _escapes(hostile, parse_config, SourceRefused)
    published = [config for config, _ in PUBLISHED.values()]
    accepted = _escapes(published, parse_config, SourceRefused)
    families = {config["model_type"] for config in published}
    record(
        "bad input",
        "config.json: hostile and wrong ones",
        ">= 60, 0 code run",
        f"{len(hostile)} configurations, {len(escaped)} taken ({len(code)} of them name code; the same in each of "
        f"{len(FAMILIES)} families: `tests/espalier/probe`)",
    )
    record(
        "bad input",
        "config.json: as published models have them",
        "all accepted",
        f"{len(accepted)} of {len(published)} accepted, {len(families)} of {len(FAMILIES)} families",
    )
    assert not escaped
    assert [error for _, error in accepted] == [None] * len(published)
    assert not connections
    assert families == set(FAMILIES)
    assert len(hostile) >= 60


def test_two_projects_see_nothing_of_each_other(sqlite_url: str, tmp_path: Path) -> None:
    app = create_app(Settings(home=tmp_path, database_url=sqlite_url, hf_endpoint="http://127.0.0.1:9"))
    with TestClient(app, follow_redirects=False) as client:
        _, answers = ask_of_both(client, app.state.resources)
    leaks = [route for route, (anothers, nobodys) in answers.items() if anothers != nobodys or anothers[0] != 404]
    record(
        "tenants",
        "two projects x every id-taking route x every verb",
        "404, same bytes as an unknown id",
        f"{len(answers)} routes by verb, {len(leaks)} of them tell anything",
    )
    assert not leaks
