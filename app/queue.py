"""Wake-up signals: Celery messages that say "there is work", and nothing else; the database holds the work."""

from __future__ import annotations

import contextlib
import queue
import secrets
import threading
import time
from pathlib import Path
from typing import Any

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import dumps

from app.platform import loops
from app.settings import Settings

RUN_JOBS = "jobs.run"
"""The one task: claim from the database until nothing is left."""

BURST, SIGNALS_PER_SECOND = 32.0, 50.0
"""So many signals at once, and so many a second after that: more would wake nobody who is not awake."""

log = structlog.get_logger(__name__)


def queue_name(worker_class: str) -> str:
    """Return the queue that workers of a class consume."""
    return f"jobs-{worker_class}"


class _FolderChannel(filesystem.Channel):
    """Renames messages into place: kombu writes them in place, and a consumer that meets a half-written one dies."""

    def _put(self, queue: str, payload: object, **_kwargs: object) -> None:  # type: ignore[override]
        folder = Path(self.data_folder_out)
        temporary = folder / f"{secrets.token_hex(12)}.part"
        temporary.write_text(dumps(payload))
        temporary.rename(temporary.with_suffix(f".{queue}.msg"))


class FolderTransport(filesystem.Transport):
    """The broker of the embedded mode: a folder that is polled."""

    Channel = _FolderChannel


TRANSPORT_ALIASES["filesystem"] = f"{__name__}:{FolderTransport.__name__}"


def make_celery(settings: Settings) -> Celery:
    """Return the Celery object of one process; tasks are registered by workers.main."""
    celery = Celery("espalier", broker=settings.broker)
    celery.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        # Early: a message that dies with its worker costs two seconds, a redelivered one could run a job twice.
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        task_default_queue=queue_name("default"),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=_transport_options(settings),
    )
    return celery


def _transport_options(settings: Settings) -> dict[str, Any]:
    folder = settings.wake_up_folder
    if folder is None:
        return {"socket_connect_timeout": 2, "socket_timeout": 5, "socket_keepalive": True}
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "data_folder_in": str(folder),
        "data_folder_out": str(folder),
        "control_folder": str(folder / "control"),
        "store_processed": False,
        "polling_interval": 0.1,
    }


class WorkNotifier:
    """Sends wake-up signals from its own thread, so that a slow or dead broker never holds up a request."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._waiting: queue.Queue[str | None] = queue.Queue(maxsize=256)
        self._left, self._refilled = BURST, time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
        self._thread.start()

    def notify(self, worker_class: str) -> None:
        """Wake one worker of a class; returns at once and never raises."""
        # A full queue means that 256 signals are on their way already.
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(worker_class)

    def check(self) -> None:
        """Raise OSError when the broker cannot be reached."""
        try:
            with self._celery.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
        except OperationalError as error:
            raise ConnectionError("the broker does not answer") from error

    def close(self, timeout_seconds: float = 0.5) -> None:
        """Send the signals that wait, for a moment."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        loops.run("doorbell", self._over, self._notify_next, idle_seconds=0)

    def _notify_next(self) -> bool:
        worker_class = self._waiting.get()
        if worker_class is None:
            self._over.set()
            return False
        now = time.monotonic()
        self._left, self._refilled = min(self._left + (now - self._refilled) * SIGNALS_PER_SECOND, BURST), now
        if self._left < 1:  # a worker that is awake works until nothing is left
            return True
        self._left -= 1
        try:
            self._celery.send_task(RUN_JOBS, queue=queue_name(worker_class), retry=False, ignore_result=True)
        except Exception as error:  # noqa: BLE001 - whatever a broker library raises, workers look by themselves
            log.warning("bell not rung", worker_class=worker_class, error=type(error).__name__)
        return True
