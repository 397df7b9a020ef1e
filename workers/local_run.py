"""One job without a service: `python -m workers.local_run --output DIR < request.json` prints the children's messages.

The last line is `done` or `failed`. The output folder appears whole, after everything else has gone well.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from app.bodies import strict_json
from app.bodies.job import JobRequest
from app.errors import MalformedRequest
from app.integrations.systems import LOGINS
from app.services.admission.admit import datasets_of, systems_of
from app.settings import Settings, get_settings
from espalier.messages import ComputeRequest, Done, ErrorInfo, Failed, Log  # fmt: skip
from espalier.recipe import pointers, presets
from espalier.recipe.base import canonical
from espalier.recipe.dataset import UploadDataset
from espalier.recipe.spec import CompressionSpec
from workers.lease.retries import as_sent, from_exit
from workers.messages import AnyMessage, Fetched, FetchRequest, Resolved
from workers.processes.memory import allowed
from workers.processes.process import Child, Commands, environment
from workers.processes.workspace import Workspace, remove_leftovers

Say = Callable[[BaseModel], None]


def left_to_a_service(job: JobRequest) -> Iterator[tuple[str, str]]:
    """Yield where a request asks for what only a service does, and what that is; a run leaves none of it out."""
    spec, source = job.spec, job.source
    if spec.preset is not None and presets.find(spec.preset) is None:
        yield "/spec/preset", "a project's presets are a service's: write out what it says, without its name"
    if spec.objective is not None:
        yield "/spec/objective", "a search runs jobs of its own: give the amounts in `prune`"
    if spec.output.publish:
        yield "/spec/output/publish", "nothing is published: upload the folder afterwards"
    if source.kind in {"mlflow", "s3", "upload"}:
        yield "/source/kind", f"`{source.kind}` takes a service's store or login: use `local` or `huggingface`"
    for pointer, dataset in datasets_of(job):
        if isinstance(dataset, UploadDataset):
            yield f"{pointer}/kind", "`upload` takes a service's store: use `local`, `huggingface` or `builtin`"
    if job.reuse == "require":
        yield "/reuse", "earlier results are a service's: use `auto` or `never`"
    if job.plan_id is not None:
        yield "/plan_id", "plans are a service's: leave it out"


def run(job: JobRequest, output: Path, settings: Settings, say: Say, commands: Commands | None = None) -> bool:
    """Fetch and compute; True when the result lies in `output`."""
    if refused := list(left_to_a_service(job)):
        say(Failed(error=ErrorInfo(
            class_="invalid_spec", retryable=False, module=refused[0][0],
            message="a run without a service does not do this: " + "; ".join(": ".join(each) for each in refused),
            hint="Change the spec, or submit it to a service (`espalier serve`, `espalier submit`).",
        )))  # fmt: skip
        return False
    commands = commands or Commands()
    most = job.limits.max_run_seconds
    deadline = time.monotonic() + most if most else float("inf")
    remove_leftovers(settings.scratch)
    with Workspace(settings.scratch, "run", os.getpid()) as workspace:
        request = FetchRequest(
            # Who runs this may read what the process may read: the roots are the service's fence.
            job=job, cache_dir=str(settings.cache), cache_max_bytes=settings.cache_max_bytes,
            workspace=str(workspace), roots=["/"],
            systems={
                kind: {**LOGINS[kind].server(settings), **LOGINS[kind].operators(settings)} for kind in systems_of(job)
            },
        )  # fmt: skip
        fetched = _follow("fetch", commands.fetch, request, workspace, settings, say, deadline)
        resolved = next((message for message in fetched if isinstance(message, Resolved)), None)
        last = fetched[-1] if fetched else None
        if not isinstance(last, Fetched) or resolved is None:
            return False
        artifact = workspace / "artifact"
        artifact.mkdir()
        compute = ComputeRequest(
            spec=CompressionSpec.model_validate_json(canonical(resolved.spec)).unpublished, model_dir=last.model_dir,
            revision=resolved.revision, source_name=job.source.model_name, datasets=last.datasets,
            dropped_keys=last.dropped_keys, workspace=str(workspace),
            artifact_dir=str(artifact), threads=settings.threads, device=settings.device,
            tasks_dir=str(settings.tasks_dir.absolute()) if settings.tasks_dir else None,
            max_host_memory_bytes=job.limits.max_host_memory_bytes,
            max_device_memory_bytes=job.limits.max_device_memory_bytes,
        )  # fmt: skip
        computed = _follow("compute", commands.compute, compute, workspace, settings, lambda message: (
            None if isinstance(message, Done) else say(message)
        ), deadline)  # fmt: skip
        done = computed[-1] if computed else None
        if not isinstance(done, Done):
            return False
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.is_dir():
            output.rmdir()  # empty: main has looked
        shutil.move(artifact, output)
        say(done)
    return True


def _follow(
    side: Literal["fetch", "compute"], command: Sequence[str], request: BaseModel, workspace: Path,
    settings: Settings, say: Say, deadline: float,
) -> list[AnyMessage]:  # fmt: skip
    """Run a child and pass on what it says; return it all but the log, its result last. It ends at the deadline."""
    said: list[AnyMessage] = []
    env = environment(side, workspace, settings.threads)
    child = Child(
        command, request, env=env, cwd=workspace, offline=side == "compute", memory=allowed(settings, request)
    )
    try:
        while not child.finished:
            if time.monotonic() > deadline:
                return [_timed_out(say)]
            for message in child.messages(wait_seconds=0.1):
                say(message)
                if not isinstance(message, Log):
                    said.append(message)
        status = child.returncode
    finally:
        child.close()
    results = [message for message in said if isinstance(message, Fetched | Done | Failed)]
    if results:
        return [*said, results[-1]]
    assert status is not None
    failed = Failed(error=from_exit(status, child.tail, None, out_of_memory=child.out_of_memory))
    say(failed)
    return [failed]


def _timed_out(say: Say) -> Failed:
    failed = Failed(error=ErrorInfo(
        class_="timeout", retryable=False, message="the run took longer than limits.max_run_seconds",
        hint="Raise limits.max_run_seconds.",
    ))  # fmt: skip
    say(failed)
    return failed


def main() -> int:
    """Read a job's request from standard input and run it."""
    parser = argparse.ArgumentParser(description="Runs one job without a service.")
    parser.add_argument("--output", type=Path, required=True, help="folder of the result; must not exist or be empty")
    output: Path = parser.parse_args().output.absolute()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

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
        first = error.errors(include_input=False, include_url=False)[0]
        where = pointers.of_error(first, first["loc"], body)
        return refuse(f"{where or '/'}: {first['msg']}", "Change the spec.")

    def tell(message: BaseModel) -> None:
        if isinstance(message, Failed):
            message = Failed(error=as_sent(message.error, body))
        say(message)

    return 0 if run(job, output, get_settings(), tell) else 1


if __name__ == "__main__":
    sys.exit(main())
