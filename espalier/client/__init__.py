"""A typed HTTP client of the service: retries, idempotent calls, event streams, downloads that resume."""

from espalier.client.client import Client
from espalier.client.models import ENDINGS, Artifact, Event, Job, Queue, Worker
from espalier.client.transport import ATTEMPTS, BadDownload, ServiceError, Unreachable
from espalier.client.uploads import NothingToUpload

__all__ = [
    "ATTEMPTS",
    "ENDINGS",
    "Artifact",
    "BadDownload",
    "Client",
    "Event",
    "Job",
    "NothingToUpload",
    "Queue",
    "ServiceError",
    "Unreachable",
    "Worker",
]
