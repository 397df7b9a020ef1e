"""Every page renders, is inert whatever people called their things, and can be read without JavaScript."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from app.db.base import Base
from app.db.job import Attempt, Event, Job
from app.db.result import Artifact, LayerRow, LogLine, MetricPoint, PhaseRecord
from app.db.session import clock
from app.platform.ids import new_id
from app.portal import pages
from app.portal.navigation import discover
from app.services.resources import Resources
from tests.app.portal.browser import Browser
from tests.app.portal.hostile import HOSTILE
from tests.app.portal.pages import Page

TABS = ("", "/layers", "/events", "/log", "/files", "/spec")
REPORT: dict[str, Any] = {
    "dense": {"perplexity": {"text": 31.83}, "parameters": 8_000_000, "bytes": 32_000_000, "macs_per_token": 7_000_000},
    "compressed": {
        "perplexity": {"text": 33.47},
        "parameters": 8_000_000,
        "nonzero_parameters": 5_000_000,
        "bytes": 32_000_000,
        "packed_bytes": 20_000_000,
        "macs_per_token": 7_000_000,
    },
    "phases": [{"name": "pruning", "seconds": 3.0, "peak_memory_bytes": 10**9, "perplexity": {"text": 36.1}}],
    "sparsity": {"requested": 0.5, "achieved": 0.5, "scope": "pruned matrices"},
    "protocol": {"perplexity": {"text": {"dataset": {"kind": "builtin", "name": "text"}, "windows": 200}}},
    "advice": [],
    "environment": {},
    "warnings": [],
}
GATE = {
    "verdict": "accepted",
    "checks": [{"name": "max_perplexity", "limit": 40.0, "value": 33.47, "passed": True}],
}


def finish(resources: Resources, job_id: str, *texts: str, report: dict[str, Any] | None = None) -> None:
    """Let a job have run, with these texts in one row each of everything that a page shows and a run writes."""
    with resources.database.unit_of_work() as session:
        now = clock(session)
        own: dict[str, Any] = {"job_id": job_id, "project_id": "prj_default"}
        message = "".join(texts)
        session.execute(
            update(Job)
            .where(Job.id == job_id)
            .values(
                state="succeeded",
                report=report or REPORT,
                gate=GATE,
                started_at=now,
                finished_at=now,
                attempt=2,
                phase="uploading",
                progress=1.0,
                warnings=[{"code": "x", "text": message}],
                running_seconds=90.0,
                error={"class": "internal", "message": message, "hint": message, "module": message, "phase": "pruning"},
            )
        )
        turns = [("job.phase_started", 1), ("job.phase_started", 2), ("job.phase_completed", 2)]
        session.add_all(
            Event(
                seq=seq,
                id=new_id("evt"),
                type=type_,
                time=now + timedelta(seconds=seq),
                attempt=attempt,
                phase="pruning",
                data={"text": message},
                **own,
            )
            for seq, (type_, attempt) in enumerate(turns, start=100)
        )
        session.add_all(
            PhaseRecord(
                name=name,
                attempt=1,
                started_at=now,
                finished_at=now,
                seconds=3.0,
                peak_memory_bytes=10**9,
                perplexity=dict.fromkeys(texts[:4], value),
                **own,
            )
            for name, value in (("baseline", 31.83), ("pruning", 36.1))
        )
        session.add_all(
            MetricPoint(name=name, step=1, phase="retraining", attempt=1, value=3.5, time=now, **own)
            for name in (*texts, "training_loss")
        )
        for index, text in enumerate(texts):
            session.add_all(_rows(own, index, text, now))


def _rows(own: dict[str, Any], index: int, text: str, now: datetime) -> list[Base]:
    return [
        Attempt(
            id=new_id("att"),
            number=index + 1,
            fence=index,
            worker_id=text,
            outcome="lost",
            started_at=now,
            finished_at=now,
            resumed_from={"phase": "pruning", "name": text},
            error={"class": "worker_lost", "message": text},
            **own,
        ),
        LayerRow(
            name=f"model.layers.{index % 9}.{text}",
            position=index,
            block=index % 9,
            shape=[4, 8],
            pattern=text,
            sparsity_requested=0.5,
            sparsity_achieved=0.5,
            error_before=0.2,
            error_after=0.1,
            seconds=0.5,
            **own,
        ),
        LogLine(id=new_id("log"), attempt=1, time=now, level="info", text=text, **own),
        Artifact(
            id=new_id("art"), name=text, kind="model", bytes=10, sha256="0" * 64, key="none", created_at=now, **own
        ),
    ]


@pytest.fixture
def job(browser: Browser, resources: Resources) -> str:
    """A job that has run."""
    job_id = browser.submit(name="first", labels={"team": "nlp"})
    finish(resources, job_id, "text", "more")
    return job_id


@pytest.mark.parametrize("entry", discover(pages)[1], ids=lambda entry: str(entry.url))
def test_every_page_of_the_menu_renders_and_names_itself(browser: Browser, entry: Any) -> None:
    answer = browser.get(entry.url)
    assert answer.status_code == 200
    page = Page(answer.text)
    assert page.faults() == []
    assert [link["href"] for link in page.all("a") if link.get("aria-current") == "page"] == [entry.url]
    assert len(page.all("h1")) == 1


def test_every_input_of_every_form_has_a_label(browser: Browser, job: str) -> None:
    for path in ("/portal/jobs", "/portal/new-job", f"/portal/jobs/{job}"):
        page = Page(browser.get(path).text)
        labelled = {label.get("for") for label in page.all("label")}
        for kind in ("input", "select", "textarea"):
            for attributes in page.all(kind):
                wrapped = attributes.get("type") in {"hidden", "radio"} or (
                    attributes.get("type") == "checkbox" and attributes["name"].startswith("/")
                    if "name" in attributes
                    else False
                )
                assert wrapped or attributes.get("id") in labelled or "aria-label" in attributes, attributes
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids))


def test_a_job_is_told_without_javascript(browser: Browser, job: str) -> None:
    texts = {tab: Page(browser.get(f"/portal/jobs/{job}{tab}").text).text for tab in TABS}
    overview = " ".join(re.sub(r"<[^>]*>", " ", browser.get(f"/portal/jobs/{job}").text).split())
    assert "pruned 36.10 +13.4 %" in overview
    assert "the artifact, loaded again 33.47 +5.2 %" in overview
    assert "text: builtin text, 200 windows" in overview  # the protocol beside the number
    assert "max perplexity 40.000 33.470 kept" in overview
    assert "bytes without the zeros \N{EN DASH} 19.1 MiB" in overview
    assert "training_loss" in overview  # a table holds what the curves show
    assert "attempt 2" in overview
    assert "model.layers.0.text" in texts["/layers"]
    assert "job.phase_completed" in texts["/events"]
    assert "info 1 text" in texts["/log"]
    assert "0" * 64 in texts["/files"]
    assert f"espalier download {job}" in texts["/files"]
    assert '"method": "magnitude"' in texts["/spec"]


def test_the_numbers_of_the_curves_are_there_for_the_script(browser: Browser, job: str) -> None:
    charts = browser.get(f"/portal/jobs/{job}/curves.json").json()
    assert charts["loss"] == {"names": ["training_loss"], "data": [[1], [3.5]], "x_title": "step", "ticks": None}
    assert charts["perplexity"]["ticks"] == ["baseline", "pruning"]
    assert charts["perplexity"]["data"] == [[0, 1], [31.83, 36.1], [31.83, 36.1]]


@pytest.mark.parametrize("tab", [*TABS, "/stream", "/curves.json"])
def test_a_job_that_is_not_there_is_a_page_of_404(browser: Browser, tab: str) -> None:
    answer = browser.get(f"/portal/jobs/job_01ARZ3NDEKTSV4RRFFQ69G5FAV{tab}")
    assert answer.status_code == 404
    assert "There is nothing here with this id." in answer.text


def test_what_runs_and_people_called_things_stays_text_on_every_page(browser: Browser, resources: Resources) -> None:
    labels = {f"k{index}": text for index, text in enumerate(HOSTILE)}
    job = browser.submit(labels=labels)
    scores = {text: {"dataset": {"name": text}} for text in HOSTILE}
    dense = {**REPORT["dense"], "perplexity": dict.fromkeys(HOSTILE, 30.0)}
    compressed = {**REPORT["compressed"], "perplexity": dict.fromkeys(HOSTILE, 31.0)}
    extra = {"protocol": {"perplexity": scores}, "advice": list(HOSTILE), "dense": dense, "compressed": compressed}
    finish(resources, job, *HOSTILE, report={**REPORT, **extra})
    for tab in TABS:
        page = Page(browser.get(f"/portal/jobs/{job}{tab}").text)
        assert page.faults() == [], tab
        if tab in {"", "/layers", "/log", "/files"}:
            assert [text for text in HOSTILE if " ".join(text.split()) not in " ".join(page.text.split())] == [], tab
    page = Page(browser.get(f"/portal/new-job?clone={job}").text)
    assert page.faults() == []
    assert all(text in page.text for text in HOSTILE)


def test_what_people_called_jobs_and_models_stays_text(browser: Browser, resources: Resources) -> None:
    jobs = {text: browser.submit(name=text) for text in HOSTILE}
    with resources.database.unit_of_work() as session:
        for text, job in jobs.items():
            who = {"type": text, "id": text}
            session.execute(update(Job).where(Job.id == job).values(model=text, method=text, initiator=who))
    page = Page(browser.get("/portal/jobs").text)
    assert page.faults() == []
    assert all(" ".join(text.split()) in " ".join(page.text.split()) for text in HOSTILE)
    for text, job in jobs.items():
        assert Page(browser.get(f"/portal/jobs/{job}").text).faults() == [], text


def test_what_comes_in_addresses_and_forms_stays_text(browser: Browser) -> None:
    browser.get("/portal/new-job")
    for text in HOSTILE:
        wanted = {"model": text, "label": text, "method": text, "after": text, "state": text, "cursor": text}
        answer = browser.client.get("/portal/jobs", params=wanted)
        assert Page(answer.text).faults() == [], text
        fields = {
            "/source/repo": text,
            "/name": text,
            "/spec/prune/method": text,
            "/labels": text,
            "extra": text,
            "/spec/preset": text,
            "/spec/prune/sparsity": text,
            "key": text,
        }
        answer = browser.post("/portal/new-job", fields)
        assert answer.status_code == 422
        page = Page(answer.text)
        assert page.faults() == [], text
        assert any(box.get("value") == text for box in page.all("input"))
