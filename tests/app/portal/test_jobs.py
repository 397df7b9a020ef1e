"""The list of jobs: filters in the address, pages, several at once."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from app.db.job import Job
from app.services.resources import Resources
from tests.app.portal.browser import Browser
from tests.app.portal.pages import Page

JOBS = "/portal/jobs"


def _shown(browser: Browser, query: str = "") -> list[str]:
    page = Page(browser.get(f"{JOBS}?{query}").text)
    return [box["value"] for box in page.all("input") if box.get("name") == "job"]


def test_filters_stand_in_the_address_and_in_the_form(browser: Browser) -> None:
    first = browser.submit(labels={"team": "nlp"}, source={"kind": "huggingface", "repo": "org/a"})
    second = browser.submit(spec={"prune": {"method": "wanda", "sparsity": 0.5}})
    assert _shown(browser) == [second, first]
    assert _shown(browser, "model=org/a") == [first]
    assert _shown(browser, "method=wanda") == [second]
    assert _shown(browser, "label=team%3Dnlp") == [first]
    assert _shown(browser, "state=queued&state=running") == [second, first]
    assert _shown(browser, "state=failed") == []
    assert _shown(browser, "after=2020-01-01&before=2020-01-02") == []
    assert _shown(browser, "state=&model=&method=&label=&after=2020-01-01&before=") == [second, first]
    text = browser.get(f"{JOBS}?model=org/a&state=queued").text
    assert 'value="org/a"' in text
    assert '<option value="queued" selected>' in text


@pytest.mark.parametrize(("query", "hint"), [("label=nlp", "Write key=value."), ("after=soon", "Write a day as")])
def test_a_filter_that_cannot_be_understood_says_how_to_write_it(browser: Browser, query: str, hint: str) -> None:
    assert hint in browser.get(f"{JOBS}?{query}").text


def test_pages_follow_each_other_without_a_job_lost_or_twice(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.portal.pages.jobs.jobs.PAGE", 2)
    jobs = [browser.submit() for _ in range(5)]
    ids, query = [], "state=queued"
    while True:
        page = Page(browser.get(f"{JOBS}?{query}").text)
        ids += [box["value"] for box in page.all("input") if box.get("name") == "job"]
        older = [link["href"] for link in page.all("a") if link.get("rel") == "next"]
        if not older:
            break
        assert "state=queued" in older[0]
        query = older[0].partition("?")[2]
    assert ids == jobs[::-1]


def test_a_script_of_ours_gets_the_rows_alone(browser: Browser) -> None:
    job = browser.submit()
    text = browser.get(JOBS, **{"HX-Request": "true"}).text
    assert job in text
    assert "<html" not in text


def test_several_jobs_are_cancelled_and_each_tells_its_own_result(browser: Browser, resources: Resources) -> None:
    first, second, third = (browser.submit() for _ in range(3))
    with resources.database.unit_of_work() as session:
        session.execute(update(Job).where(Job.id == second).values(state="succeeded"))
    browser.get(JOBS)
    answer = browser.post("/portal/several-jobs/cancel", {"job": [first, second, "job_none"]})
    text = " ".join(Page(answer.text).text.split())
    assert f"{first} cancelled" in text
    assert f"{second} not cancelled The job is succeeded and cannot be cancelled" in text
    assert "job_none not cancelled There is nothing here" in text
    states = {job: browser.client.get(f"/v1/jobs/{job}").json()["state"] for job in (first, second, third)}
    assert states == {first: "cancelled", second: "succeeded", third: "queued"}
    browser.get(JOBS)
    assert "queued again" in browser.post("/portal/several-jobs/retry", {"job": first}).text
    assert browser.client.get(f"/v1/jobs/{first}").json()["state"] == "queued"


def test_one_job_is_paused_resumed_cancelled_retried_renamed_and_deleted(browser: Browser) -> None:
    job = browser.submit()
    place = f"{JOBS}/{job}"

    def act(action: str, state: str, **fields: str) -> None:
        browser.get(place)
        answer = browser.post(f"{place}/{action}", fields)
        assert answer.status_code == 303, answer.text
        assert answer.headers["location"] == place
        assert browser.client.get(f"/v1/jobs/{job}").json()["state"] == state

    act("pause", "paused")
    act("resume", "queued")
    act("cancel", "cancelled")
    act("retry", "queued", **{"from": "start", "max_run_seconds": "90", "priority": "high"})
    assert browser.client.get(f"/v1/jobs/{job}").json()["priority"] == "high"
    act("change", "queued", name="better")
    assert "better" in browser.get(place).text
    act("cancel", "cancelled")
    browser.get(place)
    assert browser.post(f"{place}/delete").headers["location"] == JOBS
    assert browser.get(place).status_code == 404


@pytest.mark.parametrize(
    ("action", "fields", "status", "text"),
    [
        ("resume", {}, 409, "allowed now: cancel, pause, clone"),
        ("retry", {"max_run_seconds": "soon"}, 422, "/limits/max_run_seconds"),
        ("retry", {"from": "middle"}, 422, "/from"),
        ("change", {"name": ""}, 422, "/name"),
    ],
)
def test_an_action_that_cannot_be_done_says_why(
    browser: Browser, action: str, fields: dict[str, str], status: int, text: str
) -> None:
    job = browser.submit()
    browser.get(f"{JOBS}/{job}")
    answer = browser.post(f"{JOBS}/{job}/{action}", fields)
    assert answer.status_code == status
    assert text in answer.text


def test_a_job_says_in_full_where_its_model_lies(browser: Browser) -> None:
    job = browser.submit(source={"kind": "s3", "uri": "s3://lab/models/llama"})
    assert "s3 s3://lab/models/llama</dd>" in browser.get(f"/portal/jobs/{job}").text
