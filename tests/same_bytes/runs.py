"""Jobs on services: undisturbed ones all at once, and each killed in the old service to go on in the new one."""

from __future__ import annotations

import json
import shutil
import signal
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from tests.fixtures.service.deployment import TERMINAL
from tests.fixtures.suite.patience import Patience
from tests.same_bytes.compare import Result, digests
from tests.same_bytes.coverage import uncovered
from tests.same_bytes.trees import Installation, Tree

HEAVY: Final = ("pruning", "reconstructing", "retraining", "quantizing")
JOB_SECONDS: Final = 600.0
"""No job takes longer, on a machine that has nothing else to do."""
LEASE_SECONDS: Final = 6
"""How long the new service waits for the worker that was killed."""
STORED_SECONDS: Final = 1.0
"""Within so much a checkpoint that lies in the store stands in the events."""
TRIES: Final = 3
Body = Mapping[str, Any]


class Refused(Exception):
    """The API did not take the jobs, or offers what no job asks for."""


@dataclass(frozen=True)
class Kept:
    """Results that a later run of the tool need not make again."""

    folder: Path

    def get(self, name: str, body: Body) -> Result | None:
        """The result of the same request."""
        with suppress(FileNotFoundError):
            result: Result = json.loads((self.folder / f"{name}.json").read_text())
            return result if result["body"] == body else None
        return None

    def put(self, name: str, body: Body, result: Result) -> Result:
        """Keep a result, unless it is an error."""
        if "error" not in result:
            self.folder.mkdir(parents=True, exist_ok=True)
            half = self.folder / f"{name}.half"
            half.write_text(json.dumps({**result, "body": body}))
            half.rename(self.folder / f"{name}.json")
        return result


@contextmanager
def _running(source: Tree, home: Path, **settings: str) -> Iterator[Installation]:
    service = Installation.of(source, home, **settings)
    try:
        service.start()
        yield service
    finally:
        service.stop()
        service.http.close()


def undisturbed(
    source: Tree, bodies: Mapping[str, Body], every: Mapping[str, Body], work: Path, say: Callable[[str], None]
) -> dict[str, Result]:
    """Return the results of jobs that nobody disturbs; raises Refused when `every` job does not cover the service."""
    kept = Kept(work / "results" / source.name)
    results = {name: result for name, body in bodies.items() if (result := kept.get(name, body))}
    missing = {name: body for name, body in bodies.items() if name not in results}
    home = work / "homes" / source.name
    shutil.rmtree(home, ignore_errors=True)
    with _running(source, home, ESPALIER_LOCAL_ROOTS=str(work)) as service:
        catalogue = service.get("/v1/methods")
        if untried := uncovered(catalogue, service.get("/v1/spec-schema"), every):
            raise Refused(f"{source.name} offers what no job asks for:\n  " + "\n  ".join(untried))
        waiting = _posted(service, missing)
        patience = Patience(JOB_SECONDS)
        while waiting:
            service.look()
            jobs = _jobs(service)
            for name in [name for name, job in waiting.items() if jobs[job]["state"] in TERMINAL]:
                result = _result(service, jobs, waiting.pop(name)) | {"engine": catalogue["engine_version"]}
                results[name] = kept.put(name, missing[name], result)
                say(f"{source.name}: {name} {result.get('error', 'done')} ({len(waiting)} left)")
                patience = Patience(JOB_SECONDS)
            patience.pause(0.1, f"no job ends: {waiting}")
        children = len(service.seen - service.resident)
        assert children >= len(missing), f"looked at {children} processes of {len(missing)} jobs"
    shutil.rmtree(home)
    return results


def _posted(service: Installation, bodies: Mapping[str, Body]) -> dict[str, str]:
    """Submit all jobs at once; name -> id."""
    answers = {name: service.http.post("/v1/jobs", json=body) for name, body in bodies.items()}
    refused = [f"{name}: {answer.text}" for name, answer in answers.items() if answer.status_code != 202]
    if refused:
        raise Refused(f"{service.source.name} refuses\n  " + "\n  ".join(refused))
    return {name: answer.json()["id"] for name, answer in answers.items()}


def _jobs(service: Installation) -> dict[str, dict[str, Any]]:
    """Every job by its id, those that jobs have made for themselves too."""
    jobs: dict[str, dict[str, Any]] = {}
    cursor = ""
    while True:
        page = service.get(f"/v1/jobs?limit=200{cursor}")
        jobs |= {job["id"]: job for job in page["items"]}
        if not page["next_cursor"]:
            return jobs
        cursor = f"&cursor={page['next_cursor']}"


def _checkpoints(events: list[dict[str, Any]]) -> list[list[str]]:
    return [[event["phase"], event["data"]["name"]] for event in events if event["type"] == "job.checkpoint"]


def _result(service: Installation, jobs: Mapping[str, Mapping[str, Any]], job: str) -> Result:
    if jobs[job]["state"] != "succeeded":
        return {"error": f"{jobs[job]['state']}: {service.get(f'/v1/jobs/{job}')['error']}"}
    family = [job, *(id_ for id_, row in jobs.items() if row["parent_id"] == job)]
    return {
        "files": digests(service.artifacts(job)),
        "report": service.get(f"/v1/jobs/{job}/report"),
        "checkpoints": [stored for id_ in family for stored in _checkpoints(service.events(id_))],
    }


def phase_to_kill_in(name: str, checkpoints: list[list[str]]) -> str:
    """Return a heavy phase in which a job stores more than one checkpoint: jobs differ in which of theirs it is."""
    counts = Counter(phase for phase, _ in checkpoints)
    phases = [phase for phase in HEAVY if counts[phase] > 1] or [phase for phase in HEAVY if counts[phase]]
    assert phases, f"{name} stores nothing in {HEAVY}"
    return phases[zlib.crc32(name.encode()) % len(phases)]


def resumed(old: Tree, new: Tree, name: str, body: Body, before: Result, work: Path) -> Result:
    """Return the result of a job that is killed in the old service and goes on in the new one."""
    kept = Kept(work / "results" / f"{old.name}-{new.name}")
    if kept_result := kept.get(name, body):
        return kept_result
    if "error" in before:
        return {"error": "not started: it does not succeed undisturbed"}
    home = work / "homes" / name
    settings = {"ESPALIER_LOCAL_ROOTS": str(work), "ESPALIER_LEASE_SECONDS": str(LEASE_SECONDS)}
    try:
        phase = phase_to_kill_in(name, before["checkpoints"])
        for attempt in range(TRIES):
            shutil.rmtree(home, ignore_errors=True)
            with _running(old, home, **settings) as service:
                (job,) = _posted(service, {name: body}).values()
                killed = _kill_in(service, job, phase, late=attempt == TRIES - 1)
            if killed is not None:
                with _running(new, home, **settings) as service:
                    result = _goes_on(service, job, killed)
                shutil.rmtree(home)
                return kept.put(name, body, result)
    except (AssertionError, httpx.HTTPError, psutil.Error) as error:  # its home is left to be looked at
        return {"error": f"{type(error).__name__}: {error}"}
    return {"error": f"was over {TRIES} times before it could be killed in {phase}"}


def _kill_in(service: Installation, job: str, phase: str, *, late: bool) -> dict[str, Any] | None:
    """Kill every process amid a phase, behind its first checkpoint; None where the job was faster.

    Whenever something new lies in the store, the job is held until it stands in the events: jobs of this size are
    over before their events are told. `late`: behind the end of the phase will do, too.
    """
    store, stored, num_seen = service.home / "store", 0, 0
    held, looked, patience = service.look(), 0.0, Patience(JOB_SECONDS)
    while True:
        if (now := _files(store)) != stored:
            _send(held, signal.SIGSTOP)
            events = _told(service, num_seen)
            if killed := amid(events, phase, late=late):
                service.kill_everything()
                return killed
            _send(held, signal.SIGCONT)
            stored, num_seen = now, sum(len(_checkpoints(of)) for of in events.values())
        elif time.monotonic() - looked > 0.2:
            held, looked = service.look(), time.monotonic()
            if service.get(f"/v1/jobs/{job}")["state"] in TERMINAL:
                return None
        patience.pause(0.002, f"no checkpoint of {phase}")


def _told(service: Installation, known: int) -> dict[str, list[dict[str, Any]]]:
    """The events of every job, with more checkpoints than are known; if there are none within a moment, as they are."""
    until = time.monotonic() + STORED_SECONDS
    while True:
        events = {job: service.events(job) for job in _jobs(service)}
        if time.monotonic() > until or sum(len(_checkpoints(of)) for of in events.values()) > known:
            return events
        time.sleep(0.05)


def amid(events: Mapping[str, list[dict[str, Any]]], phase: str, *, late: bool) -> dict[str, Any] | None:
    """Return which job has stored something of a phase and is amid it, or (`late`) behind it; None when none is."""
    for job, of_job in events.items():
        names = [name for at, name in _checkpoints(of_job) if at == phase]
        over = any(event["type"] == "job.phase_completed" and event["phase"] == phase for event in of_job)
        if names and (late or not over):
            return {"job": job, "phase": phase, "checkpoint": names[-1], "amid": not over}
    return None


def _files(store: Path) -> int:
    with suppress(FileNotFoundError):  # of a folder that went while we looked
        return sum(1 for _ in store.rglob("*"))
    return -1


def _send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)


def _goes_on(service: Installation, job: str, killed: dict[str, Any]) -> Result:
    """Wait for the end of a job in the service that found it."""
    patience = Patience(JOB_SECONDS)
    while (jobs := _jobs(service))[job]["state"] not in TERMINAL:
        service.look()
        patience.pause(0.1, jobs[job])
    attempts = service.get(f"/v1/jobs/{killed['job']}/attempts")["items"]
    if not any(attempt["resumed_from"] for attempt in attempts):
        return {"error": f"{killed['job']} did not resume: {attempts}"}
    return _result(service, jobs, job) | {"killed": killed}
