"""Deliver webhooks from the outbox: at least once, in order per job, a few at a time to each endpoint."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final

from app.db.queries.connections import webhooks
from app.db.session import Database, clock
from app.db.webhook import WebhookDelivery, WebhookEndpoint
from app.platform import loops, outbound, signing
from app.platform.outbound import Answer, ForbiddenAddress
from app.services.tenancy.encryption import DecryptionError, decrypt
from app.settings import Settings
from app.settings_rules import networks

DELAYS_SECONDS: Final = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 21_600, 28_800)
"""Pauses after failed attempts, each +- a fifth; together about 22 hours."""
LONGEST_WAIT_SECONDS = 86_400.0
TOTAL_SECONDS = 15.0
"""Deadline of one attempt, from the connection to the last byte."""
LEASE_SECONDS = 120.0
"""A message whose dispatcher died is sent again after this: at least once."""
THREADS, PER_PROJECT, PER_ENDPOINT = 32, 4, 2
"""Deliveries at once: of all, of a project, and to an endpoint."""
IDLE_SECONDS = 0.5
MAX_LOG = 20


@dataclass(frozen=True)
class DeliveryOutcome:
    """How one attempt went."""

    seconds: float
    status: int | None
    error: str | None
    answer: str | None
    retry_after: str | None = None

    @property
    def delivered(self) -> bool:
        """Whether the endpoint took it."""
        return self.status is not None and 200 <= self.status < 300


class Dispatcher:
    """Runs beside the reconciler, in threads of its own: a slow endpoint holds up nobody but itself.

    Projects take turns, and of each only some endpoints are called at once.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings
        self._allowed = networks(settings.webhook_allowed_cidrs)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="webhook")
        self._busy: Counter[tuple[str, str]] = Counter()
        """(project, endpoint) -> deliveries in the threads."""
        self._last = ""
        """The project that was served last."""
        self._lock = threading.Lock()

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set."""
        loops.run("webhooks", stop, self.dispatch, idle_seconds=IDLE_SECONDS)
        self.close(wait=False)

    def close(self, *, wait: bool = True) -> None:
        """End the threads, when they have delivered what they were given, or (without `wait`) leaving it."""
        self._pool.shutdown(wait=wait, cancel_futures=not wait)

    def dispatch(self, *, wait: bool = False) -> int:
        """Submit due deliveries to the thread pool and return how many; with `wait`, block until they are done."""
        if self._free <= 0:
            return 0
        taken: list[tuple[WebhookDelivery, WebhookEndpoint]] = []
        with self._database.unit_of_work() as session:
            now = clock(session)
            for project, endpoint_id in self._in_turn(webhooks.due_endpoints(session, now)):
                room = self._room(project, endpoint_id)
                if room > 0:
                    rows = webhooks.claim_due(session, now, endpoint_id, limit=room, lease_seconds=LEASE_SECONDS)
                    taken += rows
                    with self._lock:
                        self._busy[project, endpoint_id] += len(rows)
        futures = [self._pool.submit(self._deliver, row, endpoint) for row, endpoint in taken]
        if wait:
            for future in futures:
                future.result()
        return len(taken)

    @property
    def _free(self) -> int:
        with self._lock:
            return THREADS - self._busy.total()

    def _room(self, project: str, endpoint_id: str) -> int:
        """Return how many deliveries an endpoint may take now."""
        with self._lock:
            of_project = sum(count for (owner, _), count in self._busy.items() if owner == project)
            return min(
                PER_ENDPOINT - self._busy[project, endpoint_id], PER_PROJECT - of_project, THREADS - self._busy.total()
            )

    def _in_turn(self, due: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Yield endpoints round robin over their projects, beginning behind the project that was served last."""
        lanes: dict[str, deque[str]] = {}
        for project, endpoint_id in due:
            lanes.setdefault(project, deque()).append(endpoint_id)
        waiting = sorted(lanes)
        later = [project for project in waiting if project > self._last]
        order = deque(later + waiting[: len(waiting) - len(later)])
        while order and self._free > 0:
            project = self._last = order.popleft()
            yield project, lanes[project].popleft()
            if lanes[project]:
                order.append(project)

    def _deliver(self, row: WebhookDelivery, endpoint: WebhookEndpoint) -> None:
        def send(one: WebhookDelivery) -> None:
            self._note(one, endpoint, self._send(one, endpoint))

        try:
            loops.each("webhooks", [row], send, spoiled=self._postpone)
        finally:
            with self._lock:
                self._busy[row.project_id, row.endpoint_id] -= 1
                self._busy += Counter()  # those at 0 go

    def _note(self, row: WebhookDelivery, endpoint: WebhookEndpoint, outcome: DeliveryOutcome) -> None:
        with self._database.unit_of_work() as session:
            fresh = webhooks.one_delivery(session, endpoint.id, row.id)
            if fresh is not None:  # its endpoint was deleted meanwhile
                record_attempt(fresh, outcome, clock(session))
            if outcome.status == http.HTTPStatus.GONE:
                stored = webhooks.endpoint(session, endpoint.project_id, endpoint.id)
                if stored is not None:
                    stored.enabled, stored.disabled_reason = False, "gone"
                webhooks.fail_pending(session, endpoint.id)

    def _postpone(self, row: WebhookDelivery) -> None:
        """Postpone a delivery that raised; it is sent again later, and fails after the last attempt."""
        with self._database.unit_of_work() as session:
            webhooks.postpone(
                session,
                row.id,
                now=clock(session),
                seconds=loops.delay_seconds(row.attempts + 1),
                most_attempts=loops.MOST_ATTEMPTS,
            )

    def _send(self, row: WebhookDelivery, endpoint: WebhookEndpoint) -> DeliveryOutcome:
        started, body = time.monotonic(), row.body.encode()

        def ended(error: str | None, answer: Answer | None = None) -> DeliveryOutcome:
            seconds = round(time.monotonic() - started, 3)
            if answer is None:
                return DeliveryOutcome(seconds, None, error, None)
            return DeliveryOutcome(seconds, answer.status, error, answer.excerpt, answer.retry_after)

        try:
            headers = signing.headers(self._secrets(endpoint), row.message_id, int(time.time()), body)
            headers |= {"Content-Type": "application/json", "User-Agent": "espalier-webhooks/1"}
            answer = outbound.post(
                outbound.parse(endpoint.url), body, headers, allowed=self._allowed, seconds=TOTAL_SECONDS
            )
        except ForbiddenAddress as error:
            return ended(f"forbidden address: {error}")
        except DecryptionError:
            return ended("the secret cannot be opened: ESPALIER_CREDENTIALS_KEY has changed")
        except (OSError, http.client.HTTPException) as error:
            return ended(type(error).__name__)
        return ended(None if 200 <= answer.status < 300 else f"HTTP {answer.status}", answer)

    def _secrets(self, endpoint: WebhookEndpoint) -> list[str]:
        secrets = [decrypt(self._settings, endpoint.secret)]
        if endpoint.old_secret and endpoint.old_secret_until:
            with self._database.reading() as session:
                if clock(session) < endpoint.old_secret_until:
                    secrets.append(decrypt(self._settings, endpoint.old_secret))
        return secrets


def record_attempt(row: WebhookDelivery, outcome: DeliveryOutcome, now: datetime) -> None:
    """Record an attempt in the delivery's row, and when the next one follows."""
    entry: dict[str, Any] = {
        "time": now.isoformat(),
        "status": outcome.status,
        "seconds": outcome.seconds,
        "error": outcome.error,
        "answer": outcome.answer,
    }
    row.log = [*row.log, entry][-MAX_LOG:]
    row.attempts += 1
    row.locked_until = None
    if outcome.delivered:
        row.state, row.delivered_at = "delivered", now
    elif row.attempts > len(DELAYS_SECONDS):
        row.state = "failed"
    else:
        delay = DELAYS_SECONDS[row.attempts - 1] * random.uniform(0.8, 1.2)  # noqa: S311 (no secret)
        row.next_at = now + timedelta(seconds=max(delay, asked_seconds(outcome.retry_after, now)))


def asked_seconds(retry_after: str | None, now: datetime) -> float:
    """Read a Retry-After header, in seconds or as a date; 0 for none."""
    if retry_after is None:
        return 0.0
    if retry_after.strip().isdecimal() and len(retry_after) < 10:
        return min(float(retry_after), LONGEST_WAIT_SECONDS)
    try:
        wait = (parsedate_to_datetime(retry_after) - now).total_seconds()
    except (TypeError, ValueError):  # no date, or one without a zone
        return 0.0
    return min(max(wait, 0.0), LONGEST_WAIT_SECONDS)
