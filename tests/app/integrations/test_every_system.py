"""Every source, text and target that is found: what each owes to whoever asks it for what it cannot give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest

from app.integrations.shared.targets import PublicFile, PublishRequest, TargetRefused
from app.integrations.systems import LOGINS, SOURCES, TARGETS, TEXTS, read_source, read_target
from espalier.errors import ErrorClass
from espalier.messages import ErrorInfo, Failed
from tests.app.integrations.fetches import SPEC, Fetch
from tests.fixtures.library.demo_model import DEMO_MODEL
from workers.messages import AnyMessage

NOBODY = "http://127.0.0.1:9"
"""Where nothing listens."""
SECRET = "sesame-4711"
LOGGED_IN: dict[str, dict[str, str]] = {
    "huggingface": {"endpoint": NOBODY, "token": SECRET},
    "mlflow": {"tracking_uri": NOBODY, "token": SECRET},
    "s3": {"endpoint_url": NOBODY, "access_key_id": "public", "secret_access_key": SECRET},
}
NO_MODEL: dict[str, Callable[[Path], dict[str, Any]]] = {
    "huggingface": lambda _: {"repo": "org/nothing"},
    "local": lambda folder: {"path": str(folder / "roots/nothing")},
    "mlflow": lambda _: {"name": "nothing", "version": "1"},
    "s3": lambda _: {"uri": "s3://nobody/nothing"},
    "upload": lambda _: {"upload_id": "upl_01ARZ3NDEKTSV4RRFFQ69G5FAV"},
}
"""Of every source, one that is not there."""
NO_TEXT: dict[str, Callable[[Path], dict[str, Any]] | None] = {
    "builtin": None,  # it is always there
    "huggingface": lambda _: {"name": "org/nothing"},
    "local": lambda folder: {"path": str(folder / "roots/nothing.txt")},
    "upload": NO_MODEL["upload"],
}
PLACES: dict[str, dict[str, Any]] = {
    "huggingface": {"repo": "org/small"},
    "mlflow": {"name": "small"},
    "s3": {"uri": "s3://bucket/small"},
}


def why_not(messages: Sequence[AnyMessage]) -> ErrorInfo:
    """The last word, after looking whether anything that was said gives a login away."""
    assert not any(SECRET in message.model_dump_json() for message in messages)
    last = messages[-1]
    assert isinstance(last, Failed)
    assert last.error.class_ in get_args(ErrorClass)
    assert last.error.class_ != "internal", last.error
    assert last.error.hint
    assert last.error.retryable == (last.error.class_ == "source_unreachable")
    return last.error


def test_whoever_adds_a_system_adds_its_row_here() -> None:
    assert NO_MODEL.keys() == SOURCES.keys()
    assert NO_TEXT.keys() == TEXTS.keys()
    assert PLACES.keys() == TARGETS.keys()
    assert LOGGED_IN.keys() == LOGINS.keys()


@pytest.mark.parametrize("kind", SOURCES)
def test_a_model_that_is_not_there_is_said_to_be_missing(kind: str, fetch: Fetch, tmp_path: Path) -> None:
    source = {"kind": kind, **NO_MODEL[kind](tmp_path)}
    error = why_not(fetch(source, **LOGGED_IN))
    assert error.class_ in {"source_not_found", "source_unreachable"}
    assert error.phase == "resolving"
    declared = read_source(source)
    assert declared.model_name
    assert str(tmp_path) not in declared.address, "tags of results would name a path of the server"


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if kind in LOGINS])
def test_without_a_login_nothing_but_a_refusal_comes(kind: str, fetch: Fetch, tmp_path: Path) -> None:
    nobody = {
        name: {key: value for key, value in login.items() if value == NOBODY} for name, login in LOGGED_IN.items()
    }
    error = why_not(fetch({"kind": kind, **NO_MODEL[kind](tmp_path)}, **nobody))
    assert error.class_ in {"source_gated", "source_not_found", "source_unreachable"}


@pytest.mark.parametrize("kind", [kind for kind, missing in NO_TEXT.items() if missing])
def test_a_text_that_is_not_there_is_said_to_be_missing(kind: str, fetch: Fetch, tmp_path: Path) -> None:
    missing = NO_TEXT[kind]
    assert missing is not None
    spec = {**SPEC, "calibration": {"dataset": {"kind": kind, **missing(tmp_path)}}}
    error = why_not(fetch({"kind": "local", "path": str(DEMO_MODEL)}, spec, **LOGGED_IN))
    assert error.class_ in {"dataset_error", "source_unreachable"}


@pytest.mark.parametrize("kind", TARGETS)
def test_a_target_that_does_not_answer_is_asked_again_and_gives_no_login_away(kind: str, tmp_path: Path) -> None:
    target = read_target({"kind": kind, **PLACES[kind]})
    assert target.place
    (tmp_path / "manifest.json").write_text("{}")
    file = PublicFile(path="manifest.json", sha256="0" * 64, url=(tmp_path / "manifest.json").as_uri())
    request = PublishRequest(
        job_id="job_1", target=target, files=[file], workspace=str(tmp_path), credentials=LOGGED_IN[kind]
    )
    with pytest.raises(TargetRefused) as refused:
        target.publish(request, tmp_path)
    assert SECRET not in f"{refused.value.message} {refused.value.hint}"
    assert refused.value.retryable
    assert refused.value.hint
