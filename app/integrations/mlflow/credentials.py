"""The service's MLflow server, and the login there that a project stores."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from app.integrations.shared.logins import Doing, Login, Secret, ending
from app.settings import Settings
from espalier.errors import Problem


class MlflowCredential(Login):
    """A login at the service's MLflow server, a token or user and password: reads sources, writes publications."""

    kind: ClassVar[str] = "mlflow"
    title: ClassVar[str] = "MLflow login"
    about: ClassVar[str] = (
        "Keep an MLflow login, encrypted: fetcher, publisher and the registry sweep of the project get it."
    )
    lent: ClassVar[tuple[Doing, ...]] = ("fetch", "publish")

    token: Secret | None = None
    username: Secret | None = None
    password: Secret | None = None

    @model_validator(mode="after")
    def _one_login(self) -> MlflowCredential:
        by_name = self.username is not None and self.password is not None
        if by_name == (self.token is not None) or (self.username is None) != (self.password is None):
            raise PydanticCustomError("one_login", "give `token`, or `username` and `password`", {"at": "token"})
        return self

    def hint(self) -> str:
        """Return the end of the token, or of the user's name, which is no secret."""
        return ending(self.token) if self.token else (self.username or "")[-4:]

    @classmethod
    def server(cls, settings: Settings) -> dict[str, str]:
        """Return the server's address."""
        return {"tracking_uri": settings.mlflow_tracking_uri} if settings.mlflow_tracking_uri else {}

    @classmethod
    def operators(cls, settings: Settings) -> dict[str, str]:
        """Return ESPALIER_MLFLOW_TOKEN, or user and password."""
        token, password = settings.mlflow_token, settings.mlflow_password
        login = {
            "token": token.get_secret_value() if token else None,
            "username": settings.mlflow_username,
            "password": password.get_secret_value() if password else None,
        }
        return {key: value for key, value in login.items() if value}

    @classmethod
    def missing_here(cls, settings: Settings, doing: Doing) -> str | None:  # noqa: ARG003 (both take it)
        """Return that no server is set."""
        return None if cls.server(settings) else "no MLflow server: set ESPALIER_MLFLOW_TRACKING_URI"


def no_server(settings: Settings) -> Problem | None:
    """Return why nothing can be read there or published to it; None where there is a server."""
    if settings.mlflow_tracking_uri is not None:
        return None
    detail = "the service knows no MLflow server: its operator sets ESPALIER_MLFLOW_TRACKING_URI"
    return Problem("/kind", "no-mlflow-server", detail)
