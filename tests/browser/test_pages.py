"""Every page: no serious finding of axe, no complaint, nothing from elsewhere, no wider than its window, and readable
without JavaScript."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from app.db.hook import HookProposal
from app.db.tenancy import ApiKey
from app.services.hooks.evaluation import evaluate_next
from tests.browser.accessibility import findings_of
from tests.browser.fixture_data import FixtureData
from tests.browser.site import Site
from tests.fixtures.service.hooks import deliver

if TYPE_CHECKING:
    from tests.browser.observer import Observing


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_quiet_and_open_to_everybody(data: FixtureData, observing: Observing, scheme: str) -> None:
    findings: dict[str, list[str]] = {}
    # The dark scheme changes colours and nothing else.
    options = {} if scheme == "light" else {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
    with observing(data.site.url, color_scheme=scheme, reduced_motion="reduce") as observer:
        observer.expected = ("404",)
        page = observer.page("/portal/jobs")
        for name in data.pages:
            page.goto(data.ready_for(name))
            if violations := findings_of(page, **options):
                findings[name] = violations
    assert findings == {}


def test_pages_fit_a_narrow_window(data: FixtureData, observing: Observing) -> None:
    wider = {}
    with observing(data.site.url, viewport={"width": 390, "height": 844}) as observer:
        observer.expected = ("404",)
        page = observer.page("/portal/jobs")
        for name in data.pages:
            page.goto(data.ready_for(name))
            overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            if overflow > 0:
                wider[name] = overflow
    assert wider == {}


def test_pages_read_without_javascript(data: FixtureData, observing: Observing) -> None:
    with observing(data.site.url, java_script_enabled=False) as observer:
        observer.expected = ("404",)
        page = observer.page("/portal/jobs")
        for name in data.pages:
            page.goto(data.ready_for(name))
            assert len(page.inner_text("main")) > 20, name
            assert not page.locator("[data-copy]:visible, [data-check-all]:visible").count(), "they would do nothing"
        page.goto(f"{data.site.url}/portal/jobs/{data.ids['best']}")
        assert "34.01" in page.inner_text("main")
        page.goto(f"{data.site.url}/portal/sweeps/{data.ids['sweep']}")
        page.click("text=Bytes, packed")
        assert page.get_attribute("nav.tabs a[aria-current]", "href").endswith("x=packed_bytes&metric=python-docs")
        assert page.locator("svg.drawing a").count() == 9


def test_forms_work_without_javascript(site: Site, observing: Observing) -> None:
    with observing(site.url, java_script_enabled=False) as observer:
        page = observer.page("/portal/keys")
        page.fill("#key-name", "without a script")
        page.check("input[value='jobs:read']")
        page.click("text=Make the key")
        assert page.inner_text("#new-key").startswith("esp_")
    with site.resources.database.reading() as session:
        assert session.scalars(select(ApiKey)).one().name == "without a script"


def test_eight_tabs_hear_of_a_job_at_once(site: Site, observing: Observing) -> None:
    with observing(site.url) as observer:
        tabs = [observer.page("/portal/jobs") for _ in range(8)]
        for tab in tabs:
            tab.wait_for_selector("html[data-live]")
        lives = [tab.get_attribute("html", "data-live") for tab in tabs]
        assert lives.count("stream") == 4, "a browser opens six connections to one server, so four hold a stream"
        assert lives.count("poll") == 4, "and the others look by themselves"
        site.post(
            "/v1/jobs",
            {
                "name": "heard of",
                "source": {"kind": "huggingface", "repo": "org/model"},
                "spec": {"prune": {"method": "magnitude", "sparsity": 0.5}},
            },
        )
        for tab in tabs:
            tab.wait_for_selector("text=heard of", timeout=60_000)
        tabs[0].close()
        late = observer.page("/portal/jobs")
        late.wait_for_selector("html[data-live]")
        assert late.is_visible("text=heard of")


def test_a_hook_becomes_a_proposal_that_a_click_makes_a_job(site: Site, observing: Observing) -> None:
    with observing(site.url) as observer:
        page = observer.page("/portal/hooks")
        page.fill("#name", "the Hub")
        page.select_option("#kind", "huggingface")
        page.click("text=Make the source")
        secret, address = page.inner_text("#secret"), page.inner_text("#address")
        page.click("text=Make a rule for it")
        page.fill("#name", "everything of org")
        page.fill("#repo_glob", "org/*")
        page.click("text=Make the rule")
        assert "everything of org" in page.inner_text("h1")
        deliver(site.http, address, secret)
        while evaluate_next(site.resources.database, site.resources.settings) is not None:
            pass
        page.goto(f"{site.url}/portal/hooks")
        assert "Waiting for you" in page.inner_text("main")
        page.click("button:has-text('Approve')")
        page.wait_for_url(re.compile(r"/portal/jobs/job_"))
        assert "org/" in page.inner_text("main")
        job = page.url.rpartition("/")[2]
    with site.resources.database.reading() as session:
        row = session.scalars(select(HookProposal)).one()
    assert (row.state, row.job_id) == ("approved", job)
