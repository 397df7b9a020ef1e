"""The old place of the client, for one version more: `from espalier import Client`."""

import warnings

from espalier.client import (
    ATTEMPTS,
    ENDINGS,
    Artifact,
    BadDownload,
    Client,
    Event,
    Job,
    NothingToUpload,
    Queue,
    ServiceError,
    Unreachable,
    Worker,
)

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

warnings.warn("app.client has moved: from espalier import Client", DeprecationWarning, stacklevel=2)
