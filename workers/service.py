"""The embedded service: migrates, then starts and watches the API, one worker per class and the reconciler.

All of them end with it, however it ends, and one that dies is started again with a growing pause.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading

import httpx
import structlog

from app.db.migrate import run_migrations
from app.platform import loops
from app.platform.logs import setup_logs
from app.platform.tracing import setup_traces
from app.production import leave_unsafe_production
from app.settings import Settings, get_settings
from workers import host
from workers.processes import groups
from workers.processes.parts import ServiceProcess, end_all
from workers.processes.placement import all_cards
from workers.processes.process import ROOT

log = structlog.get_logger(__name__)


class Service:
    """The processes of an embedded installation."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop, self._announced = threading.Event(), False
        self.port = _free_port(settings.host, settings.port)
        ours = {
            "ESPALIER_HOME": settings.home.absolute(),
            "ESPALIER_HOST": settings.host,
            "ESPALIER_PORT": self.port,
            "ESPALIER_API_PROCESSES": settings.api_processes,
            "PYTHONPATH": ROOT,
        }
        self.environment = {**os.environ, **{name: str(value) for name, value in ours.items()}}
        self.parts = [
            ServiceProcess("api", [sys.executable, "-P", "-m", "app.server"]),
            *self._workers(),
            ServiceProcess("reconciler", [sys.executable, "-P", "-m", "workers.reconciler"]),
        ]

    def _workers(self) -> list[ServiceProcess]:
        """Return a worker for each class, and of the one class that computes on GPUs a worker for each of them."""
        classes = self._settings.classes
        on_gpus = [each.name for each in classes if each.device != "cpu"]
        placements = all_cards(self._settings, on_gpus[0]) if len(on_gpus) == 1 else []
        parts = []
        for name in (each.name for each in classes):
            if len(placements) > 1 and name == on_gpus[0]:
                parts += host.workers(placements, name)
                self.environment |= {**host.environment(self._settings, len(placements)), **self.environment}
            else:
                command = [sys.executable, "-P", "-m", "workers.main", "--worker-class", name]
                parts.append(ServiceProcess(f"worker {name}", command))
        return parts

    @property
    def url(self) -> str:
        """Where the API listens."""
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return f"http://{host}:{self.port}"

    def stop(self) -> None:
        """Ask the service to end."""
        self._stop.set()

    def run(self) -> None:
        """Run until asked to stop, then end every part."""
        try:
            loops.run("service", self._stop, self._watch, idle_seconds=0.1)
        finally:
            end_all(self.parts)

    def _watch(self) -> None:
        for part in self.parts:
            part.watch(self.environment)
        if not self._announced and self._answers():
            sys.stdout.write(f"listening on {self.url}\n")
            sys.stdout.flush()
            self._announced = True

    def _answers(self) -> bool:
        api = self.parts[0].process
        with contextlib.suppress(httpx.HTTPError):
            # No proxy of the environment stands between us and our own port.
            answer = httpx.get(f"{self.url}/healthz", timeout=1, trust_env=False)
            return answer.status_code == 200 and api is not None and api.poll() is None
        return False


def _free_port(host: str, port: int) -> int:
    """Return the port, or any free one for 0; raises OSError when somebody else listens on it."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return int(probe.getsockname()[1])


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    settings = get_settings()
    setup_logs(settings)
    leave_unsafe_production(settings)
    setup_traces(settings, "espalier-serve")  # refused here, not by each of the processes
    settings.home.mkdir(parents=True, exist_ok=True)
    try:
        service = Service(settings)
    except OSError as error:
        sys.exit(f"cannot listen on {settings.host}:{settings.port}: {os.strerror(error.errno or 0)}")
    run_migrations(settings.database)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    with contextlib.suppress(groups.NotDelegated):
        groups.delegated()  # by the first of our processes: workers cannot divide a group that the others are in
    service.run()


if __name__ == "__main__":
    main()
