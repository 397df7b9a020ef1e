"""A real installation: a job from the form to its result, one through a restart, one cancelled."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.service.deployment import Deployment

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.observer import Observing

LONG = {
    "calibration": {"samples": 4, "sequence_length": 64},
    "prune": {"method": "magnitude", "sparsity": 0.5},
    "retrain": {"trainable": ["norms"], "steps": 20_000, "batch_size": 2, "sequence_length": 64},
    "evaluate": {
        "perplexity": [
            {
                "dataset": {"kind": "builtin", "name": "python-docs", "split": "validation"},
                "sequence_length": 64,
                "max_windows": 2,
            }
        ]
    },
}
PATIENCE = 420_000
"""Milliseconds: a job of two seconds takes minutes where others work too."""

pytestmark = pytest.mark.timeout(1800)


@contextmanager
def _swapped(page: Page) -> Iterator[None]:
    """Wait until the form has taken over the fields that a choice opens."""
    with page.expect_response("**/portal/new-job/form"):
        yield
    page.wait_for_selector(".htmx-request, .htmx-swapping, .htmx-settling", state="detached")


def _name(pointer: str) -> str:
    return f'[name="{pointer}"]'


def test_a_job_is_made_in_the_form_and_watched_to_its_result(deployment: Deployment, observing: Observing) -> None:
    url = str(deployment.http.base_url).rstrip("/")
    with observing(url) as observer:
        observer.expected = ("422",)
        page = observer.page("/portal/new-job")
        # The union of sources: another kind has other fields.
        assert page.locator(_name("/source/repo")).count() == 1
        page.locator(_name("/source/kind")).first.select_option("local")
        page.wait_for_selector(_name("/source/path"))
        assert page.locator(_name("/source/repo")).count() == 0
        page.fill(_name("/source/path"), "/nowhere")
        with _swapped(page):
            page.check('input[type=radio][value=""]')  # no preset
        with _swapped(page):
            page.locator(_name("/spec/prune/method")).select_option("magnitude")
        page.fill(_name("/spec/prune/sparsity"), "0.5")
        page.click("button.primary:has-text('Queue the job')")
        page.wait_for_selector(".notice[data-tone=bad]:not(#notice)")
        assert "The job was not queued" in page.inner_text("main")
        assert page.input_value(_name("/source/path")) == "/nowhere", "nothing is lost"
        page.fill(_name("/source/path"), str(DEMO_MODEL))
        page.click("summary:has-text('Anything else')")
        page.fill("textarea.mono >> nth=-1", _extra())
        page.click("button.primary:has-text('Queue the job')")
        page.wait_for_url(re.compile(r"/portal/jobs/job_"))
        page.evaluate("window.same = true")
        page.wait_for_selector("#head .badge[data-state=succeeded]", timeout=PATIENCE)
        assert page.evaluate("window.same"), "the page was never loaded anew"
        page.wait_for_selector("text=Before and after")
        assert page.get_attribute("html", "data-live") == "over"
        page.click("nav.tabs a:has-text('Matrices'), nav.tabs a:has-text('Layers')")
        assert page.locator("svg.drawing").count() >= 1


def _extra() -> str:
    validation = {"kind": "builtin", "name": "python-docs", "split": "validation"}
    measured = {"dataset": validation, "sequence_length": 64, "max_windows": 4}
    spec = {
        "calibration": {"samples": 4, "sequence_length": 64},
        "evaluate": {"latency": False, "perplexity": [measured]},
    }
    return json.dumps({"name": "made in a form", "spec": spec})


def test_a_stream_goes_on_after_a_restart_and_a_job_is_cancelled(deployment: Deployment, observing: Observing) -> None:
    url = str(deployment.http.base_url).rstrip("/")
    job = deployment.submit(DEMO_MODEL, LONG, name="long")
    with observing(url) as observer:
        observer.expected = ("net::ERR_",)
        page = observer.page(f"/portal/jobs/{job}")
        page.evaluate("window.same = true")
        page.wait_for_selector("#head .badge[data-state=running]", timeout=PATIENCE)
        deployment.stop()
        deployment.start()
        assert str(deployment.http.base_url).rstrip("/") == url
        deployment.wait_for(job, lambda events: sum(e["type"] == "job.started" for e in events) >= 2, timeout=400)
        page.wait_for_selector("text=attempt 2", timeout=PATIENCE)
        assert page.evaluate("window.same"), "the page was never loaded anew"
        page.click("#head button:has-text('Cancel')")
        page.wait_for_selector("#head .badge[data-state=cancelled]", timeout=PATIENCE)
        assert observer.dialogs == ["Cancel this job?"]
    assert deployment.get(f"/v1/jobs/{job}")["state"] == "cancelled"
