"""Names, labels, model ids and payloads of registries stay what they are: text."""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from app.db.job import Job
from app.platform import signing
from app.services.hooks.evaluation import evaluate_next
from tests.browser.payloads import PAYLOADS
from tests.browser.runs import report
from tests.browser.site import Site
from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.service import rows

if TYPE_CHECKING:
    from tests.browser.observer import Observing

ALIEN = """() => {
  const found = [];
  const events = /^on/i;
  for (const element of document.querySelectorAll("*")) {
    for (const { name, value } of element.attributes) {
      const styled = name === "style" && !element.closest(".uplot"); // curves are laid out by a script of ours
      if (events.test(name) || styled || name.startsWith("hx-on")) found.push(element.outerHTML.slice(0, 200));
      const leads = ["href", "src", "action", "formaction", "data"].includes(name);
      const away = /^\\s*(javascript|data|https?|\\/\\/)/i.test(value) && !value.startsWith(location.origin);
      if (leads && away) found.push(element.outerHTML.slice(0, 200));
    }
  }
  for (const element of document.querySelectorAll("iframe, object, embed, base, style, img, math, template")) {
    found.push(element.outerHTML.slice(0, 200));
  }
  for (const element of document.querySelectorAll("script")) {
    if (!(element.getAttribute("src") || "").startsWith("/portal/static/")) found.push(element.outerHTML.slice(0, 200));
  }
  if (window.hit !== undefined) found.push("a script ran");
  return found;
}"""
"""Looks for what no page of ours has: handlers, foreign addresses, elements that run or frame something."""


def _poisoned(site: Site) -> list[str]:
    """Fill an installation with hostile names, and return the addresses of its pages."""
    database, jobs = site.resources.database, []
    model = shutil.copytree(DEMO_MODEL, site.roots / "model")
    for index, text in enumerate(PAYLOADS):
        folder = site.roots / (text.replace("/", "|")[:100])
        folder.mkdir()
        for file in model.iterdir():
            (folder / file.name).hardlink_to(file)
        body = {
            "name": text,
            "labels": {"team": text},
            "source": {"kind": "local", "path": str(folder)},
            "reuse": "never",
            "spec": {"prune": {"method": "magnitude", "sparsity": 0.5}},
        }
        jobs.append(site.post("/v1/jobs", body)["id"])
        if index % 3 == 0:
            _finish(site, jobs[-1], text)
        site.post("/v1/api-keys", {"name": text, "scopes": ["jobs:read"]})
    failed = {
        "class": "internal",
        "retryable": False,
        "phase": "pruning",
        "hint": PAYLOADS[0],
        "message": PAYLOADS[9],
        "module": PAYLOADS[10],
        "attempt": 1,
    }
    rows.start(database, jobs[1])
    rows.end(database, jobs[1], "failed", error=failed)
    tabs = ("", "/layers", "/log", "/events", "/spec", "/files")
    pages = [f"/portal/jobs/{job}{tab}" for job in jobs[:2] for tab in tabs]
    compared = "&".join(f"job={job}" for job in jobs[0:18:3])
    pages += [f"/portal/jobs?{part}" for part in ("", "limit=200")]
    pages += [f"/portal/compare?{compared}", "/portal/compare", "/portal/models", "/portal/keys", "/portal/audit"]
    pages += [_sweep(site), *_webhooks(site), *_hooks(site), "/portal/sweeps", "/portal/workers", "/portal/usage"]
    with database.reading() as session:
        models = [session.get_one(Job, job).model for job in jobs[:3]]
    return [*pages, *(f"/portal/models/one?{_query(name=model)}" for model in models)]


def _query(**fields: str) -> str:
    return urlencode(fields)


def _finish(site: Site, job: str, text: str) -> None:
    database = site.resources.database
    rows.start(database, job)
    rows.measure(database, job, text[:64], [3.0, 2.0])
    rows.prune(database, job, f"model.layers.0.{text}", text)
    rows.log(database, job, text)
    document = report(34.0, 0.5)
    for side in ("dense", "compressed"):
        document[side]["perplexity"] = {text: 30.0}
    document |= {"warnings": [text], "advice": [text], "protocol": {"perplexity": {text: {"dataset": {"name": text}}}}}
    rows.end(database, job, "succeeded", report=document, gate=None, progress=1.0, warnings=[{"text": text}])


def _sweep(site: Site) -> str:
    base = {"source": {"kind": "huggingface", "repo": "org/model"}, "spec": {"prune": {"method": "wanda"}}}
    made = site.post(
        "/v1/sweeps",
        {"name": PAYLOADS[17], "base": base, "axes": {"/spec/prune/sparsity": [0.5], "/labels/a": list(PAYLOADS[:20])}},
    )
    for point in made["points"][:10]:
        rows.start(site.resources.database, point["job_id"])
        rows.end(site.resources.database, point["job_id"], "succeeded", report=report(33.0, 0.5))
    return f"/portal/sweeps/{made['id']}"


def _webhooks(site: Site) -> list[str]:
    url = "https://x.example/?<script>window.hit=1</script>"
    made = site.post("/v1/webhook-endpoints", {"url": url, "description": PAYLOADS[9]})
    source = {"kind": "huggingface", "repo": "org/model"}
    spec = {"prune": {"method": "wanda", "sparsity": 0.5}}
    job = site.post("/v1/jobs", {"name": PAYLOADS[10], "source": source, "spec": spec, "reuse": "never"})
    site.post(f"/v1/jobs/{job['id']}/cancel", {})
    return ["/portal/webhooks", f"/portal/webhooks/{made['id']}"]


def _hooks(site: Site) -> list[str]:
    source = site.post("/v1/hook-sources", {"name": PAYLOADS[0], "kind": "generic"})
    rule = site.post(
        "/v1/rules",
        {
            "name": PAYLOADS[9],
            "source_id": source["id"],
            "mode": "propose",
            "template": {"spec": {"prune": {"method": "magnitude", "sparsity": 0.5}}},
        },
    )
    deliveries = []
    for index, text in enumerate(PAYLOADS):
        model = {"kind": "s3", "uri": text} if index % 2 else {"kind": "huggingface", "repo": "org/model"}
        body = json.dumps({"model": model, "event": "model.updated", "tags": {text: text}}).encode()
        headers = signing.headers([source["secret"]], f"msg_{index}", int(time.time()), body)
        headers["content-type"] = "application/json"
        answer = site.http.post(f"/v1/hooks/{source['id']}", content=body, headers=headers)
        if answer.status_code == 202:
            deliveries.append(answer.json()["delivery_id"])
    assert len(deliveries) >= 40, "most hostile payloads are taken and written down"
    while evaluate_next(site.resources.database, site.resources.settings) is not None:
        pass
    return [
        "/portal/hooks",
        "/portal/hooks/deliveries",
        f"/portal/hooks/rules/{rule['id']}",
        f"/portal/hooks/sources/{source['id']}",
        *(f"/portal/hooks/deliveries/{one}" for one in deliveries[:4]),
    ]


def test_hostile_names_are_shown_and_do_nothing(site: Site, observing: Observing) -> None:
    assert len(PAYLOADS) >= 40
    pages = _poisoned(site)
    with observing(site.url) as observer:
        page = observer.page("/portal/jobs")
        for path in pages:
            page.goto(site.url + path)
            assert page.evaluate(ALIEN) == [], path
        page.goto(f"{site.url}/portal/keys")
        shown = page.inner_text("main")
        assert sum(text in shown for text in PAYLOADS) >= 40, "names are shown as they are"
        assert not observer.dialogs
