"""The token of the Hugging Face Hub that a project stores."""

from __future__ import annotations

from typing import ClassVar

from app.integrations.shared.logins import Doing, Login, Secret, ending
from app.settings import Settings


class HubCredential(Login):
    """A token of the Hugging Face Hub: reads gated models, writes publications."""

    kind: ClassVar[str] = "huggingface"
    title: ClassVar[str] = "Hugging Face token"
    about: ClassVar[str] = (
        "Keep a Hugging Face token, encrypted: only the fetcher and the publisher of the project's jobs get it."
    )
    lent: ClassVar[tuple[Doing, ...]] = ("fetch",)

    token: Secret

    def hint(self) -> str:
        """Return the end of the token."""
        return ending(self.token)

    @classmethod
    def server(cls, settings: Settings) -> dict[str, str]:
        """Return the operator's mirror."""
        return {"endpoint": settings.hf_endpoint} if settings.hf_endpoint else {}

    @classmethod
    def operators(cls, settings: Settings) -> dict[str, str]:
        """Return ESPALIER_HF_TOKEN."""
        return {"token": settings.hf_token.get_secret_value()} if settings.hf_token else {}

    @classmethod
    def missing_here(cls, settings: Settings, doing: Doing) -> str | None:
        """Return that there is no token, without which nobody publishes."""
        return "no token: set ESPALIER_HF_TOKEN" if doing == "publish" and not cls.own(settings) else None
