"""Whether the service knows an MLflow server."""

from __future__ import annotations

from app.settings import Settings
from espalier.errors import Problem


def no_server(pointer: str, settings: Settings) -> Problem | None:
    """Return why nothing can be read there or published to it; None where there is a server."""
    if settings.mlflow_tracking_uri is not None:
        return None
    detail = "the service knows no MLflow server: its operator sets ESPALIER_MLFLOW_TRACKING_URI"
    return Problem(pointer, "no-mlflow-server", detail)
