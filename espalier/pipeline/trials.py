"""Run the trials of a search, one after the other, in one process."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espalier.checkpoint_names import RESULT
from espalier.diagnosis import classify
from espalier.distributed.group import RankGroup
from espalier.messages import Checkpoint, ComputeRequest, Done, Log, Message, StoredCheckpoint
from espalier.pipeline.computing import compute
from espalier.recipe.hashes import phase_key
from espalier.recipe.spec import CompressionSpec
from espalier.search import Outcome, Search, Trial
from espalier.search.trials import failed_by_its_spec
from espalier.session import Session
from espalier.session.reporter import Listener


@dataclass
class Trials:
    """The trials of a search in this process, each in a folder of its own; only the best artifact so far is kept."""

    request: ComputeRequest
    listener: Listener
    group: RankGroup
    """The ranks that compute every trial together."""
    outcomes: list[Outcome] = field(default_factory=list)
    done: dict[int, Done] = field(default_factory=dict)
    """The results whose artifacts still lie here, by number of the trial."""
    baselines: list[tuple[str | None, StoredCheckpoint]] = field(default_factory=list)
    """Measurements of the dense model, and what decides them: it is measured once."""

    def run(self, search: Search) -> Done:
        """Run trials until the search is over; the best one's artifact is the job's."""
        while isinstance(step := search.next(self.outcomes), Trial):
            self.listener(Log(text=step.label))
            self._try(step.spec)
            self._drop_all_but(search.best(self.outcomes))
        winner = self.done[step.index]
        self.group.led(lambda: self._take(step.index))
        return winner.model_copy(update={"report": {**winner.report, "objective": step.objective}})

    def _try(self, spec: CompressionSpec) -> None:
        number = len(self.outcomes)
        folder, key = self._folder(number), _baseline_key(spec)
        folder.mkdir(parents=True, exist_ok=True)
        stored = [_relocated(item, folder) for of, item in self.baselines if of == key]
        folders = {"workspace": str(folder), "artifact_dir": str(folder / "artifact")}
        request = self.request.model_copy(update={"spec": spec, "spread": False, "checkpoints": stored, **folders})

        def listen(message: Message) -> None:
            if isinstance(message, Checkpoint):
                if message.phase == "baseline":
                    fields = message.model_dump(exclude={"kind", "path"})
                    self.baselines.append((key, StoredCheckpoint(path=str(folder / message.path), **fields)))
                return  # a trial is never resumed
            self.listener(message)

        report: dict[str, Any] | None = None
        session = Session(request, listen, self.group)
        try:
            done = compute(session)
        except Exception as error:
            phase = session.reporter.phase_now
            if not failed_by_its_spec(classify(error, phase=phase).class_, phase):
                raise
        else:
            assert isinstance(done, Done)
            self.done[number], report = done, done.report
        self.outcomes.append(Outcome(spec, report))
        self.baselines = self.group.broadcast_object(self.baselines)  # rank 0 alone is told of checkpoints
        if self.group.leads:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    def _take(self, number: int) -> None:
        artifact_dir = Path(self.request.artifact_dir)
        shutil.rmtree(artifact_dir, ignore_errors=True)
        shutil.move(self._folder(number) / "artifact", artifact_dir)

    def _drop_all_but(self, best: int | None) -> None:
        newest = len(self.outcomes) - 1
        for number in set(self.done) - {best, newest}:
            if self.group.leads:
                shutil.rmtree(self._folder(number))
            del self.done[number]

    def _folder(self, number: int) -> Path:
        return Path(self.request.workspace) / f"trial-{number + 1}"


def _baseline_key(spec: CompressionSpec) -> str | None:
    return phase_key("baseline", RESULT, revision="", data={}, spec=spec.model_dump(mode="json"), made_by={})


def _relocated(stored: StoredCheckpoint, folder: Path) -> StoredCheckpoint:
    return stored.model_copy(update={"path": os.path.relpath(stored.path, folder)})
