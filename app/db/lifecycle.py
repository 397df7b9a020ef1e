"""The states and phases of a job, and the one table of allowed moves."""

from __future__ import annotations

from typing import Final, Literal, get_args

JobState = Literal[
    "queued",  # waits for a worker, a dependency or a back-off to pass
    "running",  # a worker holds the lease and a child computes
    "pausing",  # asked to pause; the worker will let go at the next look
    "paused",  # holds no worker; its checkpoints stay
    "cancelling",  # asked to end; the worker will let go at the next look
    "succeeded",  # the artifacts are committed
    "failed",  # ended by an error that no further attempt can mend
    "cancelled",  # ended on request
    "expired",  # a time limit of the job ran out
]
WaitReason = Literal["capacity", "quota", "dependency", "backoff", "scheduled"]

STATES: Final = get_args(JobState)
TERMINAL: Final[frozenset[JobState]] = frozenset({"succeeded", "failed", "cancelled", "expired"})
LEASED: Final[frozenset[JobState]] = frozenset({"running", "pausing", "cancelling"})
"""States in which a worker holds the job, and a null or past lease means that the worker is gone."""

MOVES: Final[dict[JobState, frozenset[JobState]]] = {
    "queued": frozenset({"running", "cancelled", "paused", "expired"}),
    "running": frozenset({"succeeded", "failed", "expired", "pausing", "cancelling", "queued"}),
    "pausing": frozenset({"paused", "cancelling", "succeeded", "failed", "queued"}),
    "paused": frozenset({"queued", "cancelled", "expired"}),
    "cancelling": frozenset({"cancelled", "succeeded", "failed"}),
    "failed": frozenset({"queued"}),
    "expired": frozenset({"queued"}),
    "cancelled": frozenset({"queued"}),
    "succeeded": frozenset(),
}

Action = Literal["cancel", "pause", "resume", "retry"]
ACTIONS: Final[dict[Action, dict[JobState, JobState]]] = {
    "cancel": {"queued": "cancelled", "paused": "cancelled", "running": "cancelling", "pausing": "cancelling"},
    "pause": {"queued": "paused", "running": "pausing"},
    "resume": {"paused": "queued"},
    "retry": {"failed": "queued", "expired": "queued", "cancelled": "queued"},
}
"""What users do: the states in which they may, and where each leads."""


def allowed(state: JobState) -> list[str]:
    """Return what may be done to a job in this state, by the names of the API."""
    return [*(action for action, moves in ACTIONS.items() if state in moves), *_ALWAYS, *_IF_OVER.get(state, ())]


_ALWAYS = ("clone",)
_IF_OVER: Final[dict[JobState, tuple[str, ...]]] = dict.fromkeys(TERMINAL, ("delete",))


def may_move(old: JobState, new: JobState) -> bool:
    """Tell whether a job may go from one state to another."""
    return new in MOVES[old]
