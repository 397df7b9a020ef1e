"""A team's worth of jobs: every page of the portal has something to show, and nothing depends on the hour."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import select

from app.db.job import Job, Worker
from app.db.publication import Publication
from app.db.queries.tenancy import quotas
from app.db.session import clock
from app.db.tenancy import Project
from app.db.webhook import WebhookDelivery
from app.platform.actor import DEFAULT_PROJECT, LOCAL, acting
from app.platform.ids import new_id
from app.services.hooks.evaluation import evaluate_next
from tests.browser.runs import PHASES, fill, finish, phases
from tests.browser.site import Site
from tests.fixtures.service import rows
from tests.fixtures.service.hooks import deliver

MODEL = "acme/llama-8m"


@dataclass
class FixtureData:
    """The installation, and the ids of what stands in it."""

    site: Site
    ids: dict[str, str] = field(default_factory=dict)

    @property
    def pages(self) -> dict[str, str]:
        """A name and an address for every page that there is to see."""
        ids = self.ids
        job = f"/portal/jobs/{ids['best']}"
        return {
            "jobs": "/portal/jobs",
            "jobs-none": "/portal/jobs?label=no=such",
            "new-job": "/portal/new-job",
            "methods": "/portal/methods",
            "job": job,
            "job-layers": f"{job}/layers",
            "job-events": f"{job}/events",
            "job-log": f"{job}/log",
            "job-files": f"{job}/files",
            "job-spec": f"{job}/spec",
            "job-running": f"/portal/jobs/{ids['running']}",
            "job-failed": f"/portal/jobs/{ids['failed']}",
            "job-queued": f"/portal/jobs/{ids['queued']}",
            "compare-pick": "/portal/compare",
            "compare": f"/portal/compare?job={ids['best']}&job={ids['second']}&job={ids['third']}",
            "sweeps": "/portal/sweeps",
            "sweep": f"/portal/sweeps/{ids['sweep']}",
            "sweep-bytes": f"/portal/sweeps/{ids['sweep']}?x=packed_bytes",
            "models": "/portal/models",
            "model": f"/portal/models/one?name={MODEL}",
            "webhooks": "/portal/webhooks",
            "hooks": "/portal/hooks",
            "hook-source": f"/portal/hooks/sources/{ids['source']}",
            "rule": f"/portal/hooks/rules/{ids['rule']}",
            "rule-new": "/portal/hooks/rules/new",
            "deliveries": "/portal/hooks/deliveries",
            "delivery": f"/portal/hooks/deliveries/{ids['delivery']}",
            "webhook": f"/portal/webhooks/{ids['endpoint']}",
            "workers": "/portal/workers",
            "usage": "/portal/usage",
            "audit": "/portal/audit",
            "keys": "/portal/keys",
            "sign-in": "/portal/sign-in",
            "none": "/portal/none",
        }

    def ready_for(self, page: str) -> str:
        """Return the address of a page; the sign-in is shown to those only who come from elsewhere."""
        self.site.resources.settings.host = "0.0.0.0" if page == "sign-in" else "127.0.0.1"
        return self.site.url + self.pages[page]


def with_fixture_data(site: Site) -> FixtureData:
    """Fill an empty installation."""
    data = FixtureData(site)
    _sweep(data)
    _jobs(data)
    _webhooks(data)
    _hooks(data)
    _operations(data)
    return data


def _body(name: str, method: str, sparsity: float, **spec: Any) -> dict[str, Any]:
    return {
        "name": name,
        "source": {"kind": "huggingface", "repo": MODEL},
        "spec": {"prune": {"method": method, "sparsity": sparsity}, **spec},
        "reuse": "never",
    }


NUMBERS = {
    "magnitude": {0.5: 33.78, 0.6: 39.9, 0.7: 54.06},
    "wanda": {0.5: 33.47, 0.6: 37.2, 0.7: 45.61},
    "sparsegpt": {0.5: 32.48, 0.6: 33.4, 0.7: 35.50},
}


def _sweep(data: FixtureData) -> None:
    made = data.site.post(
        "/v1/sweeps",
        {
            "name": "how far without recovery",
            "base": {"source": {"kind": "huggingface", "repo": MODEL}, "spec": {"prune": {"method": "wanda"}}},
            "axes": {"/spec/prune/method": list(NUMBERS), "/spec/prune/sparsity": [0.5, 0.6, 0.7]},
        },
    )
    data.ids["sweep"] = made["id"]
    for point in made["points"]:
        method, sparsity = point["values"].values()
        finish(data.site, point["job_id"], NUMBERS[method][sparsity], sparsity, seconds=40)


def _jobs(data: FixtureData) -> None:
    recovery = {
        "reconstruct": {"window": "submodule"},
        "retrain": {"trainable": ["norms", "mask_lora"], "steps": 80},
        "gate": {"max_relative_perplexity_increase": 0.5},
    }
    site = data.site
    for word, name, method, sparsity, perplexity in (
        ("third", "wanda 50 %, recovered", "wanda", 0.5, 32.30),
        ("second", "magnitude 70 %, recovered", "magnitude", 0.7, 34.90),
        ("best", "wanda 70 %, recovered", "wanda", 0.7, 34.01),
    ):
        body = _body(name, method, sparsity, **recovery) | {"labels": {"team": "nlp", "stage": "release"}}
        data.ids[word] = site.post("/v1/jobs", body)["id"]
        finish(
            data.site,
            data.ids[word],
            perplexity,
            sparsity,
            seconds=262,
            pruned=NUMBERS[method][sparsity],
        )
        fill(data.site, data.ids[word], sparsity, perplexity)
    for word, name in (
        ("failed", "mixtral, out of memory"),
        ("cancelled", "wrong data set"),
        ("paused", "after hours"),
        ("queued", "ria 2:4"),
        ("running", "wanda 60 %, all of it"),
    ):
        data.ids[word] = site.post("/v1/jobs", _body(name, "wanda", 0.6, **recovery))["id"]
    site.post(f"/v1/jobs/{data.ids['cancelled']}/cancel", {})
    site.post(f"/v1/jobs/{data.ids['paused']}/pause", {})
    database = site.resources.database
    rows.start(database, data.ids["failed"])
    rows.end(
        database,
        data.ids["failed"],
        "failed",
        phase="pruning",
        error={
            "class": "host_oom",
            "retryable": False,
            "phase": "pruning",
            "module": "model.layers.3.mlp.down_proj",
            "hint": "Use fewer calibration samples, or a machine with more memory.",
            "message": "The child needed more than limits.max_host_memory_bytes.",
            "attempt": 1,
        },
    )
    rows.start(database, data.ids["running"], lease_seconds=10**6)
    with database.unit_of_work() as session:
        job = session.get_one(Job, data.ids["running"])
        job.phase, job.phase_current, job.phase_total, job.phase_unit = "reconstructing", 5, 16, "windows"
        job.progress = 0.42
        session.flush()
        phases(session, job, PHASES[:5], clock(session), over=False)


def _webhooks(data: FixtureData) -> None:
    made = data.site.post("/v1/webhook-endpoints", {"url": "https://ci.example.com/espalier", "description": "CI"})
    data.ids["endpoint"] = made["id"]
    data.site.post("/v1/webhook-endpoints", {"url": "https://chat.example.com/hook", "events": ["job.failed"]})
    data.site.post(f"/v1/webhook-endpoints/{made['id']}/test", {})
    data.site.post(f"/v1/jobs/{data.ids['cancelled']}/retry", {})
    data.site.post(f"/v1/jobs/{data.ids['cancelled']}/cancel", {})
    with data.site.resources.database.unit_of_work() as session:
        time = clock(session).isoformat()
        good = {"time": time, "status": 204, "seconds": 0.031, "error": None, "answer": ""}
        bad = {"time": time, "status": 503, "seconds": 1.4, "error": "it answered 503", "answer": "try again later"}
        for index, row in enumerate(session.scalars(select(WebhookDelivery)).all()):
            row.state, row.log = ("failed", [bad, bad]) if index % 3 == 2 else ("delivered", [bad, good])
            row.attempts = len(row.log)


def _hooks(data: FixtureData) -> None:
    site = data.site
    source = site.post("/v1/hook-sources", {"name": "the Hub", "kind": "huggingface"})
    site.post("/v1/hook-sources", {"name": "registry of the lab", "kind": "mlflow"})
    rule = {
        "name": "everything of org",
        "source_id": source["id"],
        "match": {"repo_glob": "org/*"},
        "template": {"preset": "balanced", "publish": {"kind": "huggingface", "repo": "acme/{name}-sparse"}},
    }
    data.ids |= {"source": source["id"], "rule": site.post("/v1/rules", rule)["id"]}
    data.ids["delivery"] = deliver(site.http, source["path"], source["secret"])
    while evaluate_next(site.resources.database, site.resources.settings) is not None:
        pass


def _operations(data: FixtureData) -> None:
    site = data.site
    for name, scopes in (("ci", ["jobs:read", "jobs:write"]), ("notebook", ["jobs:read", "artifacts:read"])):
        data.ids[f"key-{name}"] = site.post("/v1/api-keys", {"name": name, "scopes": scopes})["id"]
    site.http.delete(f"/v1/api-keys/{data.ids['key-notebook']}")
    with acting(LOCAL), site.resources.database.unit_of_work() as session:
        now = clock(session)
        session.get_one(Project, DEFAULT_PROJECT).max_gpu_seconds = 100 * 3600
        for day in range(now.day):
            at = now - timedelta(days=day)
            quotas.charge(session, DEFAULT_PROJECT, seconds=3600 * (1 + day % 5), gpu=True, now=at)
            quotas.charge(session, DEFAULT_PROJECT, seconds=1800 * (1 + day % 3), gpu=False, now=at)
        for number, (state, job_id) in enumerate((("busy", data.ids["running"]), ("idle", None), ("drained", None))):
            session.add(
                Worker(
                    id=new_id("wrk"),
                    worker_class="default",
                    host=f"gpu-{number + 1}",
                    pid=4000 + number,
                    device="cuda",
                    memory_bytes=80 * 2**30,
                    engine_version="2",
                    job_id=job_id,
                    started_at=now - timedelta(hours=5),
                    drain_requested_at=now if state == "drained" else None,
                    seen_at=now + timedelta(days=1),
                )
            )
        target = {"kind": "huggingface", "repo": "acme/llama-8m-sparse", "revision": "main", "private": True}
        session.add(
            Publication(
                id=new_id("pub"),
                project_id=DEFAULT_PROJECT,
                job_id=data.ids["best"],
                target=target,
                state="succeeded",
                attempts=1,
                next_at=now,
                locked_until=None,
                reference="0f3c",
                error=None,
                created_at=now,
                finished_at=now,
            )
        )
