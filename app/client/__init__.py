"""A typed HTTP client of the service: retries, idempotent calls, event streams, downloads that resume."""

from app.client.client import Client
from app.client.models import ENDINGS, Artifact, Event, Job, Queue, Worker
from app.client.transport import ATTEMPTS, BadDownload, ServiceError, Unreachable
from app.client.uploads import NothingToUpload

__all__ = [
    "ATTEMPTS", "ENDINGS", "Artifact", "BadDownload", "Client", "Event", "Job", "NothingToUpload", "Queue",
    "ServiceError", "Unreachable", "Worker",
]  # fmt: skip
