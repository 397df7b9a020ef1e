"""Compare, sweeps and models: results side by side, fronts, and what came from what."""

from __future__ import annotations

import copy
import re
from typing import Any
from xml.etree import ElementTree

from app.db.publication import Publication
from app.db.session import clock
from app.portal.comparison import differences
from app.services.resources import Resources
from tests.app.portal.browser import Browser
from tests.fixtures.service import rows
from tests.fixtures.service.requests import REMOTE
from tests.fixtures.service.timings import latency, report


def _report(perplexity: float, sparsity: float = 0.5, **compressed: Any) -> dict[str, Any]:
    report = copy.deepcopy(rows.REPORT)
    report["compressed"] |= {"perplexity": {"python-docs": perplexity}, **compressed}
    report["sparsity"]["achieved"] = sparsity
    return report


def _finished(browser: Browser, resources: Resources, name: str, report: dict[str, Any], **fields: Any) -> str:
    job = browser.submit(name=name, reuse="never", **fields)
    rows.start(resources.database, job)
    rows.end(resources.database, job, "succeeded", report=report, phase="publishing", progress=1.0)
    return job


def _drawings(page: str) -> list[ElementTree.Element]:
    drawings = re.findall(r'<svg id=[^>]*class="drawing.*?</svg>', page, re.DOTALL)
    return [ElementTree.fromstring(drawing) for drawing in drawings]


def test_two_jobs_are_compared_in_numbers_specs_curves_and_matrices(browser: Browser, resources: Resources) -> None:
    other = {"prune": {"method": "random", "sparsity": 0.6}}
    one = _finished(browser, resources, "first", _report(22.0))
    two = _finished(browser, resources, "second", _report(25.0), spec=other)
    for job, loss in ((one, 2.0), (two, 2.5)):
        rows.measure(resources.database, job, "loss", [3.0, loss])
        rows.prune(resources.database, job, "model.layers.0.q_proj", "model.layers.0.k_proj")
    page = browser.get(f"/portal/compare?job={one}&job={two}&measure=error_before").text
    assert re.search(r"lowest</span> <strong>22.00</strong>", page)
    assert "+10.0 %" in page
    assert "<code>/spec/prune/sparsity</code>" in page
    assert "<code>/source/repo</code>" not in page
    drawings = _drawings(page)
    assert [item.findtext("{*}title") or item.findtext("title") for item in drawings] == [
        "loss",
        "Error, mask alone",
        "Error, mask alone",
    ]


def test_a_job_without_a_result_is_compared_by_what_there_is(browser: Browser, resources: Resources) -> None:
    one, two = _finished(browser, resources, "first", _report(22.0)), browser.submit()
    page = browser.get(f"/portal/compare?job={one}&job={two}").text
    assert "queued" in page
    assert "The jobs were measured by different protocols" not in page


def test_different_protocols_are_named(browser: Browser, resources: Resources) -> None:
    other = _report(25.0) | {"protocol": {"perplexity": {"python-docs": {"sequence_length": 64}}}}
    one, two = _finished(browser, resources, "a", _report(22.0)), _finished(browser, resources, "b", other)
    assert "different protocols" in browser.get(f"/portal/compare?job={one}&job={two}").text


def test_one_job_or_seven_are_asked_to_be_two_to_six(browser: Browser, resources: Resources) -> None:
    jobs = [_finished(browser, resources, f"job {index}", _report(22.0)) for index in range(2)]
    page = browser.get(f"/portal/compare?job={jobs[0]}").text
    assert "1 job is picked: it takes two to 6." in page
    assert page.count('type="checkbox"') == 2
    seven = "&".join(f"job=job_{index}" for index in range(7))
    assert "7 jobs are picked" in browser.get(f"/portal/compare?{seven}").text
    assert browser.get(f"/portal/compare?job={jobs[0]}&job=job_none").status_code == 404


def test_picked_jobs_lead_to_the_address_of_their_comparison(browser: Browser) -> None:
    browser.get("/portal/keys")
    answer = browser.post("/portal/compare", {"job": ["job_1", "job_2", "job_1&x=<y>"]})
    assert answer.headers["location"] == "/portal/compare?job=job_1&job=job_2&job=job_1xy"


def test_only_what_differs_is_a_difference() -> None:
    one = {"prune": [{"method": "wanda", "sparsity": 0.5}], "retrain": None, "names": ["a", "b"]}
    two = {"prune": [{"method": "wanda", "sparsity": 0.7}], "retrain": {"steps": 5}, "names": ["a", "b"]}
    assert differences([one, two]) == [
        ("/prune/0/sparsity", [0.5, 0.7]),
        ("/retrain/steps", [None, 5]),
    ]
    assert differences([one, one]) == []


def _sweep(browser: Browser) -> dict[str, Any]:
    body = {"name": "grid", "base": REMOTE, "axes": {"/spec/prune/sparsity": [0.3, 0.5, 0.7]}}
    answer = browser.client.post("/v1/sweeps", json=body)
    assert answer.status_code == 202, answer.text
    document: dict[str, Any] = answer.json()
    return document


def test_a_sweep_shows_its_front_and_leads_to_its_jobs(browser: Browser, resources: Resources) -> None:
    sweep = _sweep(browser)
    jobs = [point["job_id"] for point in sweep["points"]]
    for job, perplexity, sparsity in zip(jobs, (21.0, 30.0, 29.0), (0.3, 0.5, 0.7), strict=True):
        rows.start(resources.database, job)
        rows.end(resources.database, job, "succeeded", report=_report(perplexity, sparsity))
    page = browser.get(f"/portal/sweeps/{sweep['id']}").text
    (drawing,) = _drawings(page)
    links = {item.get("href"): item.get("aria-label") or "" for item in drawing.iter("a")}
    assert links[f"/portal/jobs/{jobs[0]}"] == "sparsity 0.3: 30 %, perplexity 21.0, on the front"
    assert links[f"/portal/jobs/{jobs[1]}"].endswith("beaten")
    assert page.count("front</span>") == 3, "two points and the dense model"
    assert f'href="/portal/compare?job={jobs[0]}&amp;job={jobs[2]}&amp;">Compare the front' in page
    assert 'data-stream="/portal/stream"' not in page, "what is over tells nothing more"
    assert "grid" in browser.get("/portal/sweeps").text


def test_the_axis_is_switched_by_a_link(browser: Browser, resources: Resources) -> None:
    sweep = _sweep(browser)
    job = sweep["points"][0]["job_id"]
    rows.start(resources.database, job)
    rows.end(resources.database, job, "succeeded", report=_report(21.0, 0.3, bytes=2048))
    page = browser.get(f"/portal/sweeps/{sweep['id']}?x=bytes&metric=python-docs").text
    assert re.search(r'href="\?x=bytes&amp;metric=python-docs" aria-current="true"', page)
    assert "2.0 KiB" in page
    assert "+5.0 %" in browser.get(f"/portal/sweeps/{sweep['id']}?x=seconds").text
    assert browser.get(f"/portal/sweeps/{sweep['id']}?x=beauty").status_code == 422


def test_a_sweep_without_results_can_be_cancelled(browser: Browser) -> None:
    sweep = _sweep(browser)
    page = browser.get(f"/portal/sweeps/{sweep['id']}").text
    assert "No point has a result yet." in page
    assert browser.post(f"/portal/sweeps/{sweep['id']}/cancel").status_code == 303
    assert "3 cancelled" in browser.get(f"/portal/sweeps/{sweep['id']}").text


def test_a_script_gets_the_body_of_a_sweep_alone(browser: Browser) -> None:
    sweep = _sweep(browser)
    page = browser.get(f"/portal/sweeps/{sweep['id']}", **{"hx-request": "true"}).text
    assert "<html" not in page
    assert "Points" in page


def test_a_model_shows_its_best_results_and_what_was_made_of_it(browser: Browser, resources: Resources) -> None:
    one = _finished(browser, resources, "mild", _report(22.0, 0.5))
    _finished(browser, resources, "beaten", _report(23.0, 0.4))
    again = {"kind": "huggingface", "repo": "me/smaller"}
    two = _finished(browser, resources, "twice", _report(30.0, 0.6), source=again)
    with resources.database.unit_of_work() as session:
        now = clock(session)
        session.add(
            Publication(
                id="pub_1",
                project_id="prj_default",
                job_id=one,
                target=again,
                state="succeeded",
                attempts=1,
                next_at=now,
                locked_until=None,
                reference="abc",
                error=None,
                created_at=now,
                finished_at=now,
            )
        )
    listed = browser.get("/portal/models").text
    assert "/portal/models/one?name=org%2Fmodel" in listed
    page = browser.get("/portal/models/one?name=org/model").text
    plot, tree = _drawings(page)
    assert "beaten: 40 %, perplexity 23.0, beaten" in [item.get("aria-label") for item in plot.iter("a")]
    nodes = [item.get("aria-label") for item in tree.iter("a")]
    assert nodes == ["org/model, this model", "mild, 50 %, perplexity 22.00", "me/smaller, huggingface, 1 job"]
    smaller = browser.get("/portal/models/one?name=me/smaller").text
    _, tree = _drawings(smaller)
    assert [item.get("href") for item in tree.iter("a")] == [
        "/portal/models/one?name=org%2Fmodel",
        f"/portal/jobs/{one}",
        "/portal/models/one?name=me%2Fsmaller",
        f"/portal/jobs/{two}",
    ]
    assert browser.get("/portal/models/one?name=none").status_code == 404


def test_pages_without_anything_say_so(browser: Browser) -> None:
    assert "There is no sweep yet." in browser.get("/portal/sweeps").text
    assert "No model was compressed yet." in browser.get("/portal/models").text
    assert "Two jobs that have succeeded are needed" in browser.get("/portal/compare").text


def _measured(scores: dict[str, float], lengths: dict[str, int]) -> dict[str, Any]:
    """A report with some measurements, each with its protocol; the text lay elsewhere for every job."""
    report = _report(1.0)
    report["compressed"]["perplexity"] = scores
    report["dense"]["perplexity"] = dict.fromkeys(scores, 30.0)
    report["protocol"] = {
        "perplexity": {
            name: {"sequence_length": length, "text_sha256": "ab", "dataset": {"path": f"/{scores[name]}"}}
            for name, length in lengths.items()
        }
    }
    return report


def test_only_what_was_measured_by_different_protocols_does_not_compare(browser: Browser, resources: Resources) -> None:
    reports = [
        _measured({"docs": 32.89, "wiki": 40.0, "own": 5.0}, {"docs": 256, "wiki": 256, "own": 64}),
        _measured({"docs": 33.5, "wiki": 39.0}, {"docs": 256, "wiki": 128}),
    ]
    one, two = (_finished(browser, resources, f"job {index}", report) for index, report in enumerate(reports))
    page = browser.get(f"/portal/compare?job={one}&job={two}").text
    assert "measured wiki by different protocols" in page
    assert re.search(r"lowest</span> <strong>32.89</strong>", page)
    assert not re.search(r"lowest</span> <strong>39.00</strong>", page)
    assert page.count("measured by different protocols</small>") == 2  # the perplexity, and how far it is from dense
    alike = browser.get(f"/portal/compare?job={one}&job={_finished(browser, resources, 'c', reports[0])}").text
    assert "different protocols" not in alike


def test_nothing_is_awarded_among_jobs_that_failed(browser: Browser, resources: Resources) -> None:
    jobs = []
    for name in ("first", "second"):
        jobs.append(browser.submit(name=name, reuse="never"))
        rows.start(resources.database, jobs[-1])
        rows.end(resources.database, jobs[-1], "failed", running_seconds=float(len(jobs)))
    page = browser.get(f"/portal/compare?job={jobs[0]}&job={jobs[1]}").text
    assert "Time of work" in page
    assert "lowest</span>" not in page


def test_timings_show_their_spread_and_no_gain_within_it(browser: Browser, resources: Resources) -> None:
    noisy = report(latency(0.040, 0.054, 0.060), latency(0.030, 0.038, 0.041))
    jobs = [_finished(browser, resources, name, noisy) for name in ("first", "second")]
    page = browser.get(f"/portal/jobs/{jobs[0]}").text
    assert page.count("no difference beyond noise") == 2
    assert "54.000 (40.000 to 60.000) ms" in page
    assert "-29.6 %" not in page
    compared = browser.get(f"/portal/compare?job={jobs[0]}&job={jobs[1]}").text
    assert compared.count("38.000 (30.000 to 41.000) ms") == 4
