"""One job without a service: `python -m workers.local_run --output DIR < request.json` prints the children's messages.

The last line is `done` or `failed`. The output folder appears whole, once the model is measured; a search runs its
trials in the compute process, and publications come last, one child each.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

from app.bodies import strict_json
from app.bodies.job import JobRequest
from app.errors import MalformedRequest
from app.integrations.shared.logins import Doing
from app.integrations.shared.targets import PublishRequest
from app.integrations.systems import LOGINS, read_target
from app.services.admission.admit import datasets_of, systems_of
from app.services.publications import rejected
from app.settings import Settings, get_settings
from espalier.messages import (
    Alive,
    Done,
    ErrorInfo,
    Failed,
    PhaseCompleted,
    PhaseStarted,
    Progress,
)
from espalier.recipe import presets
from espalier.recipe.hashes import work_hash
from espalier.recipe.phases import Phase
from espalier.recipe.refusals import pointers
from espalier.recipe.refusals.mistakes import describe
from espalier.recipe.spec import ENGINE_VERSION
from workers.lease.retries import as_sent, from_exit, silent
from workers.messages import AnyMessage, Fetched, FetchRequest, Published, Resolved
from workers.processes.machine import device_of
from workers.processes.memory import allowed
from workers.processes.process import Child, Commands, Side, environment
from workers.processes.workspace import Workspace, remove_leftovers
from workers.supervisor import publishing
from workers.supervisor.requests import compute_request
from workers.supervisor.supervise import Watch, Watchdog

Say = Callable[[BaseModel], None]


class _Failure(Exception):
    """A child failed, and what it said has been passed on."""


def left_to_a_service(job: JobRequest, settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield where a request asks for what only a service does, or what is not set here; a run leaves none of it out."""
    spec = job.spec
    if spec.preset is not None and presets.find(spec.preset) is None:
        yield "/spec/preset", "a project's presets are a service's: write out what it says, without its name"
    named: list[tuple[str, str, Doing]] = [("/source", job.source.kind, "fetch")]
    named += [(pointer, dataset.kind, "fetch") for pointer, dataset in datasets_of(job)]
    named += [
        (f"/spec/output/publish/{index}", target.kind, "publish") for index, target in enumerate(spec.output.publish)
    ]
    for pointer, kind, doing in named:
        if kind == "upload":
            yield f"{pointer}/kind", "`upload` takes a service's store: use `local` or `huggingface`"
        elif kind in LOGINS and (missing := LOGINS[kind].missing_here(settings, doing)):
            yield f"{pointer}/kind", missing
    if (job.limits.gpus or 1) > 1 and spec.objective is not None:
        yield "/limits/gpus", "a search on several cards is a service's: leave one of the two out"
    if job.reuse == "require":
        yield "/reuse", "earlier results are a service's: use `auto` or `never`"
    if job.plan_id is not None:
        yield "/plan_id", "plans are a service's: leave it out"


def run(job: JobRequest, output: Path, settings: Settings, say: Say, commands: Commands | None = None) -> bool:
    """Carry out one job; True when the result lies in `output`, and wherever the spec publishes it."""
    if refused := list(left_to_a_service(job, settings)):
        message = "a run without a service does not do this: " + "; ".join(": ".join(each) for each in refused)
        hint = "Change the spec, or submit it to a service (`espalier serve`, `espalier submit`)."
        error = ErrorInfo(class_="invalid_spec", retryable=False, module=refused[0][0], message=message, hint=hint)
        say(Failed(error=error))
        return False
    remove_leftovers(settings.scratch)
    with Workspace(settings.scratch, "run", os.getpid()) as workspace:
        try:
            _Run(job, settings, say, commands or Commands(), workspace).carry_out(output)
        except _Failure:
            return False
    return True


class _Run:
    def __init__(self, job: JobRequest, settings: Settings, say: Say, commands: Commands, workspace: Path) -> None:
        self._job, self._settings, self._say, self._commands = job, settings, say, commands
        self._workspace = workspace
        self._resolved: Resolved | None = None
        self._published_from: Path | None = None
        self._phase: Phase | None = None
        max_seconds = job.limits.max_run_seconds
        self._deadline = time.monotonic() + max_seconds if max_seconds else float("inf")

    def carry_out(self, output: Path) -> None:
        """Fetch, compute, and publish."""
        fetched, resolved = self._fetch()
        done = self._compute(fetched, resolved)
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.is_dir():
            output.rmdir()  # empty: main has checked
        shutil.move(self._workspace / "artifact", output)
        if resolved.parsed_spec.output.publish and not rejected(done.gate):
            self._publish(done, output, resolved, self._work_hash(fetched, resolved))
        self._say(done)

    def _work_hash(self, fetched: Fetched, resolved: Resolved) -> str:
        gpus = self._job.limits.gpus
        return work_hash(resolved.revision, fetched.data_sha256, resolved.spec, ENGINE_VERSION, gpus=gpus)

    def _fetch(self) -> tuple[Fetched, Resolved]:
        settings = self._settings
        request = FetchRequest(
            job=self._job,
            cache_dir=str(settings.cache),
            cache_max_bytes=settings.cache_max_bytes,
            workspace=str(self._workspace),
            roots=["/"],  # who runs this may read what the process may read: the roots are the service's fence
            systems={kind: self._login(kind) for kind in systems_of(self._job)},
        )
        fetched = self._follow("fetch", request)
        if not isinstance(fetched, Fetched) or self._resolved is None:
            raise self._failed(silent("the fetcher ended without a model"))
        return fetched, self._resolved

    def _compute(self, fetched: Fetched, resolved: Resolved) -> Done:
        request = compute_request(self._job, fetched, resolved, self._settings, self._workspace)
        done = self._follow("compute", request)
        if not isinstance(done, Done):
            raise self._failed(silent("the compute child ended without a result"))
        return done

    def _publish(self, done: Done, output: Path, resolved: Resolved, work: str) -> None:
        """Send the result to every target of the spec, one after the other; it stays in the output folder."""
        self._published_from, targets = output, self._job.spec.output.publish
        files = publishing.local_files(output, done.files)
        lineage = publishing.lineage(
            self._job.source, revision=resolved.revision, spec=resolved.spec, work_hash=work, engine=ENGINE_VERSION
        )
        started = time.monotonic()
        self._say(PhaseStarted(phase="publishing", total=len(targets), unit="target"))
        for number, target in enumerate(targets, start=1):
            place = read_target(target.model_dump(mode="json")).beside(self._job.source)
            request = PublishRequest(
                job_id=f"run-{work[:16]}",
                target=place,
                files=files,
                workspace=str(self._workspace),
                credentials=self._login(place.kind),
                lineage=lineage,
            )
            self._follow("publish", request)
            self._say(Progress(phase="publishing", current=number, total=len(targets), unit="target"))
        self._say(PhaseCompleted(phase="publishing", seconds=time.monotonic() - started, peak_memory_bytes=0))

    def _login(self, kind: str) -> dict[str, str]:
        return {**LOGINS[kind].server(self._settings), **LOGINS[kind].own(self._settings)}

    def _follow(self, side: Side, request: BaseModel) -> AnyMessage:
        """Run a child, pass on what it says, and return its result; raises _Failure. It ends at the deadline."""
        result: AnyMessage | None = None
        child = Child(
            getattr(self._commands, side),
            request,
            env=environment(side, self._workspace, self._settings.threads),
            cwd=self._workspace,
            offline=side == "compute",
            memory=allowed(self._settings, request),
        )
        device = device_of(self._settings) if side == "compute" else self._settings.device
        watch = Watch.of(side, self._settings.model_copy(update={"device": device}), gpus=self._job.limits.gpus)
        watchdog = Watchdog(child, watch)
        try:
            while not child.finished:
                if time.monotonic() > self._deadline:
                    raise self._failed(_timed_out())
                messages = child.pipe.take(wait_seconds=0.1)
                for message in messages:
                    result = message if isinstance(message, Fetched | Done | Published | Failed) else result
                    self._take(message)
                if watchdog.hangs(messages):
                    raise self._failed(watch.error(self._phase, ended=child.kill()))
            status = child.returncode
        finally:
            child.close()
        if isinstance(result, Failed):
            raise _Failure
        if result is None:
            assert status is not None
            raise self._failed(from_exit(status, child.pipe.tail, None, out_of_memory=child.out_of_memory))
        return result

    def _take(self, message: AnyMessage) -> None:
        if isinstance(message, Resolved):
            self._resolved = message
        if isinstance(message, PhaseStarted):
            self._phase = message.phase
        if isinstance(message, Failed) and self._published_from is not None:
            hint = f"The result lies in {self._published_from}: send that folder, or run into another one."
            message = Failed(error=message.error.model_copy(update={"hint": hint}))
        # `Done` is the last line, once the result lies in its place; a supervisor alone wants to hear `Alive`.
        if not isinstance(message, Done | Alive):
            self._say(message)

    def _failed(self, error: ErrorInfo) -> _Failure:
        self._say(Failed(error=error))
        return _Failure()


def _timed_out() -> ErrorInfo:
    return ErrorInfo(
        class_="timeout",
        retryable=False,
        message="the run took longer than limits.max_run_seconds",
        hint="Raise limits.max_run_seconds.",
    )


def main() -> int:
    """Read a job's request from standard input and run it."""
    parser = argparse.ArgumentParser(description="Runs one job without a service.")
    parser.add_argument("--output", type=Path, required=True, help="folder of the result; must not exist or be empty")
    output: Path = parser.parse_args().output.absolute()
    output = output.resolve() if output.is_symlink() else output
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))

    def say(message: BaseModel) -> None:
        sys.stdout.write(message.model_dump_json(by_alias=True) + "\n")
        sys.stdout.flush()

    def refuse(message: str, hint: str) -> int:
        say(Failed(error=ErrorInfo(class_="invalid_spec", retryable=False, message=message, hint=hint)))
        return 1

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        return refuse("The output folder is not empty.", "Name another one.")
    sent = sys.stdin.buffer.read()
    try:
        body = strict_json.parse(sent)
        job = JobRequest.model_validate_json(sent)
    except MalformedRequest as error:
        return refuse(f"/: {error.detail}", "Write the request as JSON in UTF-8.")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = pointers.of_error(first, first["loc"], body)
        return refuse(f"{where or '/'}: {describe(first, JobRequest)}", "Change the spec.")

    def tell(message: BaseModel) -> None:
        if isinstance(message, Failed):
            message = Failed(error=as_sent(message.error, body))
        say(message)

    return 0 if run(job, output, get_settings(), tell) else 1


if __name__ == "__main__":
    sys.exit(main())
