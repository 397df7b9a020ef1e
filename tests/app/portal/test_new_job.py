"""The form of a job: made from the schema, sent once, and wrong at its fields."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from app.bodies.job import JobRequest
from app.portal.forms import Form
from app.portal.spec_form.build import tree
from app.portal.spec_form.nodes import FieldGroup
from app.portal.spec_form.values import document, filled
from espalier.recipe.presets import BUILT_IN
from espalier.recipe.refusals.unbuilt import MARK
from espalier.recipe.steps.prune import BUDGETS, OPTIMIZERS, PATTERNS, SOLVERS, STEPS
from espalier.recipe.steps.structure import STRUCTURE_STEPS
from tests.app.portal.browser import Browser
from tests.app.portal.pages import Page
from tests.fixtures.library.demo_model import copy_demo_model

NEW = "/portal/new-job"
THREE_CLICKS = {"/source/kind": "huggingface", "/source/repo": "org/model", "/spec/preset": "balanced"}


def _jobs(browser: Browser) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = browser.client.get("/v1/jobs").json()["items"]
    return items


def test_a_newcomer_names_a_model_and_gets_the_balanced_preset(browser: Browser) -> None:
    page = Page(browser.get(NEW).text)
    checked = [box.get("value") for box in page.all("input") if box.get("type") == "radio" and "checked" in box]
    assert "balanced" in checked
    answer = browser.post(NEW, THREE_CLICKS)
    assert answer.status_code == 303
    assert _jobs(browser)[0]["spec"]["preset"] == "balanced"
    assert answer.headers["location"] == f"/portal/jobs/{_jobs(browser)[0]['id']}"


def test_one_page_makes_one_job_however_often_it_is_sent(browser: Browser) -> None:
    key = re.search(r'name="key" value="([^"]+)"', browser.get(NEW).text)
    assert key
    locations = {browser.post(NEW, {**THREE_CLICKS, "key": key[1]}).headers["location"] for _ in range(3)}
    assert len(locations) == len(_jobs(browser)) == 1
    answer = browser.post(NEW, {**THREE_CLICKS, "key": key[1], "/name": "other"})
    assert answer.status_code == 422
    assert "came with another body" in answer.text


def test_every_method_can_be_chosen_and_says_what_it_does(browser: Browser) -> None:
    text = Page(browser.get("/portal/methods").text).text
    options = {option.get("value") for option in Page(browser.get(NEW).text).all("option")}
    assert {*STEPS, *STRUCTURE_STEPS, *PATTERNS, *BUDGETS, *OPTIMIZERS, *SOLVERS} <= options
    for methods in (STEPS, STRUCTURE_STEPS, PATTERNS, BUDGETS, OPTIMIZERS, SOLVERS):
        for name, method in methods.items():
            assert name in text
            assert method.summary in text
            assert method.paper in text


def test_a_choice_opens_its_own_fields(browser: Browser) -> None:
    browser.get(NEW)
    fields = {**THREE_CLICKS, "/spec/prune/method": "ria", "/spec/prune/pattern/kind": "nm", "/source/kind": "local"}
    page = Page(browser.post(f"{NEW}/form", fields).text)
    names = {box.get("name") for box in page.all("input")}
    assert {"/spec/prune/exponent", "/spec/prune/pattern/n", "/spec/prune/pattern/m", "/source/path"} <= names
    assert "/source/repo" not in names


def test_a_mistake_stands_at_its_field_and_what_was_written_stays(browser: Browser) -> None:
    browser.get(NEW)
    answer = browser.post(NEW, {**THREE_CLICKS, "/spec/prune/sparsity": "1.5", "/spec/retrain/steps": "many"})
    assert answer.status_code == 422
    page = Page(answer.text)
    wrong = {box["name"]: box for box in page.all("input") if box.get("aria-invalid") == "true"}
    assert set(wrong) == {"/spec/prune/sparsity", "/spec/retrain/steps"}
    sparsity = wrong["/spec/prune/sparsity"]
    assert sparsity["value"] == "1.5"
    assert f"{sparsity['id']}-wrong" in sparsity["aria-describedby"].split()
    assert f"#{sparsity['id']}" in [link.get("href") for link in page.all("a")]
    assert any("open" in fold for fold in page.all("details"))
    assert _jobs(browser) == []


def test_what_only_the_model_tells_stands_at_its_field_too(browser: Browser, tmp_path: Path) -> None:
    browser.get(NEW)
    fields = {"/source/kind": "local", "/source/path": str(tmp_path), "/spec/preset": "fast"}
    answer = browser.post(NEW, fields)
    assert answer.status_code == 422
    assert [box["name"] for box in Page(answer.text).all("input") if "aria-invalid" in box] == ["/source/path"]


def test_what_will_be_sent_is_shown_and_is_what_is_sent(browser: Browser) -> None:
    browser.get(NEW)
    fields = {**THREE_CLICKS, "/spec/prune/sparsity": "0.6", "/labels": "team=nlp", "/spec/gate/max_perplexity": "40"}
    text = browser.post(f"{NEW}/plan", fields).text
    shown = re.search(r'id="typed-JSON">(.*?)</code>', text, re.DOTALL)
    assert shown
    body = json.loads(html.unescape(shown[1]))
    assert body == {
        "source": {"kind": "huggingface", "repo": "org/model"},
        "spec": {"preset": "balanced", "prune": {"sparsity": 0.6}, "gate": {"max_perplexity": 40}},
        "labels": {"team": "nlp"},
    }
    assert "curl -X POST" in text
    assert browser.client.post("/v1/jobs", json=body).status_code == 202
    browser.post(NEW, fields)
    first, second = _jobs(browser)
    assert first["spec"] == second["spec"]


def test_the_plan_tells_time_memory_and_the_model(browser: Browser, tmp_path: Path) -> None:
    root = copy_demo_model(tmp_path / "roots/model")
    browser.get(NEW)
    fields = {"/source/kind": "local", "/source/path": str(root), "/spec/preset": "fast"}
    text = Page(browser.post(f"{NEW}/plan", fields).text).text
    assert "LlamaForCausalLM" in text
    assert "running time, about" in text
    assert "pruning" in text


CLONED: list[dict[str, Any]] = [
    {"source": {"kind": "huggingface", "repo": "org/model"}, "spec": {"prune": {"method": "wanda", "sparsity": 0.5}}},
    {
        "name": "all of it",
        "priority": "low",
        "reuse": "never",
        "labels": {"a": "b", "c": ""},
        "source": {"kind": "local", "path": "/models/a"},
        "limits": {"max_run_seconds": 90.5},
        "spec": {
            "prune": {
                "method": "sparsegpt",
                "pattern": {"kind": "nm", "n": 2, "m": 4},
                "update": {"kind": "none"},
                "targets": {"include": ["mlp", "attn"]},
            },
            "reconstruct": {"window": {"blocks": 2}, "trainable": ["norms"], "interleave": True},
            "retrain": {"learning_rate": 0.01, "gradient_checkpointing": False, "dataset": None},
            "calibration": {"dataset": {"kind": "huggingface", "name": "c4"}, "seed": 0},
            "evaluate": {"perplexity": [{"max_windows": 3}], "latency": False},
            "gate": {"min_sparsity": 0.4},
            "soup": None,
            "output": {"format": "both", "publish": [{"kind": "huggingface", "repo": "me/model"}]},
        },
    },
    {  # several steps: beside the fields
        "source": {"kind": "upload", "upload_id": "upl_01"},
        "spec": {"prune": [{"method": "angular", "sparsity": 0.3}, {"method": "wanda", "sparsity": 0.5}]},
    },
    {
        "source": {"kind": "huggingface", "repo": "a/123"},
        "name": "123",
        "spec": {"preset": "fast@1", "prune": [], "reconstruct": None},
    },
]


@pytest.mark.parametrize("body", CLONED)
def test_the_form_of_a_job_stands_for_the_same_job(body: dict[str, Any]) -> None:
    preset = dict(BUILT_IN[body["spec"].get("preset", "quality@2").partition("@")[0]].spec)
    preset = preset if "preset" in body["spec"] else {}
    assert document(filled(body, preset), preset) == body
    JobRequest.model_validate(body)


def test_a_clone_opens_the_form_that_its_job_filled(browser: Browser) -> None:
    job = browser.submit(spec={"preset": "quality", "prune": {"sparsity": 0.7}}, name="first")
    answer = browser.get(f"{NEW}?clone={job}")
    page = Page(answer.text)
    values = {box.get("name"): box.get("value") for box in page.all("input")}
    assert values["/spec/prune/sparsity"] == "0.7"
    assert values["/source/repo"] == "org/model"
    assert any(box.get("value") == "quality@2" and "checked" in box for box in page.all("input"))


def test_the_form_follows_the_schema() -> None:
    root = tree(Form([("/spec/prune/method", "wanda")]), {})
    spec = root["spec"]
    assert isinstance(spec, FieldGroup)
    assert {child.pointer.rsplit("/", 1)[-1] for child in root.children} == set(JobRequest.model_fields) - {"plan_id"}
    fields = JobRequest.model_json_schema()["$defs"]["CompressionSpec"]["properties"]
    assert MARK in fields["quantize"]  # not built, so there is nothing to fill in
    expected = {name for name, field in fields.items() if MARK not in field} - {"preset"}
    assert {child.pointer.rsplit("/", 1)[-1] for child in spec.children} == expected
