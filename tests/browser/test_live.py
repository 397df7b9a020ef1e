"""Open pages: their stream rests when nobody looks, and a swap takes nothing from those who do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from app.db.job import Job
from tests.browser.fixture_data import FixtureData, with_fixture_data
from tests.browser.site import Site
from tests.fixtures.service import rows

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.observer import Observing

HIDE = """hidden => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def _job(site: Site, name: str) -> str:
    body = {
        "name": name,
        "source": {"kind": "huggingface", "repo": "org/model"},
        "reuse": "never",
        "spec": {"prune": {"method": "magnitude", "sparsity": 0.5}},
    }
    return str(site.post("/v1/jobs", body)["id"])


@contextmanager
def _swapped(page: Page, path: str) -> Iterator[None]:
    """Let something happen, and wait until the page has taken it in."""
    with page.expect_response(lambda answer: path in answer.url and answer.request.headers.get("hx-request") == "true"):
        yield
    page.wait_for_selector(".htmx-request, .htmx-swapping, .htmx-settling", state="detached")


def test_a_tab_that_nobody_sees_holds_no_stream_and_catches_up_when_it_is_seen(
    site: Site, observing: Observing
) -> None:
    with observing(site.url) as observer:
        page = observer.page("/portal/jobs")
        page.wait_for_selector("html[data-live=stream]")
        streams: list[str] = []
        asked: list[str] = []
        page.on("request", lambda request: (streams if "/stream" in request.url else asked).append(request.url))
        with page.expect_event("requestfailed", lambda request: "/portal/stream" in request.url):
            page.evaluate(HIDE, True)
        assert page.get_attribute("html", "data-live") == "paused"
        _job(site, "while nobody looked")
        page.wait_for_timeout(2500)  # longer than an event takes to a page that listens
        assert (streams, asked) == ([], [])
        assert page.locator("text=while nobody looked").count() == 0
        page.evaluate(HIDE, False)
        page.wait_for_selector("text=while nobody looked")
        assert len(streams) == 1
        assert "after=" in streams[0], "it goes on where it was"


def test_the_stream_of_a_job_ends_with_the_job(site: Site, observing: Observing) -> None:
    job = _job(site, "short")
    with observing(site.url) as observer:
        page = observer.page(f"/portal/jobs/{job}")
        page.wait_for_selector("html[data-live=stream]")
        streams: list[str] = []
        page.on("request", lambda request: streams.append(request.url) if "/stream" in request.url else None)
        site.post(f"/v1/jobs/{job}/cancel", {})
        page.wait_for_selector("html[data-live=over]")
        assert page.inner_text("#announcement") == "short is cancelled."
        page.evaluate(HIDE, True)
        page.evaluate(HIDE, False)
        page.wait_for_timeout(2500)  # longer than a browser waits before it connects again
        assert streams == []


def test_a_swap_keeps_the_focus_what_was_opened_and_how_far_it_was_scrolled(site: Site, observing: Observing) -> None:
    data: FixtureData = with_fixture_data(site)
    job = data.ids["running"]
    with observing(site.url, viewport={"width": 390, "height": 844}) as observer:
        page = observer.page(f"/portal/jobs/{job}")
        page.wait_for_selector("html[data-live=stream]")
        page.click("#phases-table")
        page.focus("#phases-table")
        page.evaluate("document.getElementById('phases-scroll').scrollLeft = 60")
        page.evaluate("document.getElementById('now').dataset.old = 'yes'")
        with _swapped(page, f"/portal/jobs/{job}"):
            rows.tell(site.resources.database, job, 1, "job.progress")
        page.wait_for_selector("#now:not([data-old])")
        assert page.evaluate("document.activeElement.id") == "phases-table"
        assert page.locator("details:has(#phases-table)").get_attribute("open") is not None
        assert page.evaluate("document.getElementById('phases-scroll').scrollLeft") == 60
        page.focus(f"#do-portal-jobs-{job}-cancel")
        page.evaluate("document.getElementById('head').dataset.old = 'yes'")
        with _swapped(page, f"/portal/jobs/{job}"):
            rows.tell(site.resources.database, job, 1, "job.gate_evaluated")
        page.wait_for_selector("#head:not([data-old])")
        assert page.evaluate("document.activeElement.id") == f"do-portal-jobs-{job}-cancel"


def test_a_log_shows_its_newest_lines_as_they_come_unless_somebody_reads_further_up(
    site: Site, observing: Observing
) -> None:
    job = _job(site, "talks")
    rows.start(site.resources.database, job, lease_seconds=10**6)
    for number in range(90):
        rows.log(site.resources.database, job, f"line {number}")
    at_end = "(log => log.scrollTop + log.clientHeight > log.scrollHeight - 4)(document.querySelector('.log'))"
    with observing(site.url, viewport={"width": 900, "height": 500}) as observer:
        page = observer.page(f"/portal/jobs/{job}/log")
        page.wait_for_selector("html[data-live=stream]")
        assert page.evaluate(at_end)
        rows.log(site.resources.database, job, "one more")
        rows.tell(site.resources.database, job, 1, "job.progress")
        page.wait_for_selector("text=one more")
        assert page.evaluate(at_end)
        page.evaluate("document.querySelector('.log').scrollTop = 120")
        rows.log(site.resources.database, job, "and another")
        rows.tell(site.resources.database, job, 1, "job.progress")
        page.wait_for_selector("text=and another", state="attached")
        assert page.evaluate("document.querySelector('.log').scrollTop") == 120


def test_several_jobs_are_cancelled_after_a_question_and_retried(site: Site, observing: Observing) -> None:
    jobs = [_job(site, f"number {number}") for number in range(3)]

    def states() -> list[str]:
        with site.resources.database.reading() as session:
            return [session.get_one(Job, job).state for job in jobs]

    with observing(site.url) as observer:
        page = observer.page("/portal/jobs?state=queued")
        page.check(f"#pick-{jobs[0]}")
        page.check(f"#pick-{jobs[1]}")
        observer.answers = False
        page.click("text=Cancel picked")
        assert states() == ["queued"] * 3
        observer.answers = True
        page.click("text=Cancel picked")
        page.wait_for_selector("text=2 jobs picked")
        assert states() == ["cancelled", "cancelled", "queued"]
        assert observer.dialogs == ["Cancel every job that is picked?"] * 2
        page.goto(f"{site.url}/portal/jobs?state=cancelled")
        page.check("#pick-all")
        page.click("text=Retry picked")
        page.wait_for_selector("text=queued again")
        assert states() == ["queued"] * 3


def test_filters_stand_in_the_address_and_stay_there_when_rows_come(site: Site, observing: Observing) -> None:
    _job(site, "first")
    with observing(site.url) as observer:
        page = observer.page("/portal/jobs")
        page.select_option("#f-method", "magnitude")
        page.fill("#f-model", "org/model")
        page.click("form.filters button")
        page.wait_for_url("**/portal/jobs?**")
        assert "method=magnitude" in page.url
        assert "model=org%2Fmodel" in page.url
        page.wait_for_selector("html[data-live=stream]")
        with _swapped(page, "method=magnitude"):
            _job(site, "second")
        page.wait_for_selector("text=second")
        page.goto(page.url.replace("magnitude", "wanda"))
        assert "No job has these properties." in page.inner_text("main")


def test_nothing_turns_for_those_who_want_no_motion(site: Site, observing: Observing) -> None:
    job = _job(site, "runs")
    rows.start(site.resources.database, job, lease_seconds=10**6)
    turning = "getComputedStyle(document.querySelector('.badge[data-state=running] svg')).animationName"
    for preference, name in (("reduce", "none"), ("no-preference", "turn")):
        with observing(site.url, reduced_motion=preference) as observer:
            assert observer.page("/portal/jobs").evaluate(turning) == name
