"""The S3 keys that a project stores."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from app.integrations.shared.logins import Doing, Login, Secret, ending
from app.settings import Settings


class S3Credential(Login):
    """A key pair of an S3 server: reads sources, writes publications."""

    kind: ClassVar[str] = "s3"
    title: ClassVar[str] = "S3 keys"
    about: ClassVar[str] = (
        "Keep an S3 key pair, encrypted: only the fetcher and the publisher of the project's jobs get it."
    )

    access_key_id: Secret
    secret_access_key: Secret
    region: str = Field("us-east-1", min_length=1, max_length=64, pattern=r"^[a-z0-9-]+$")

    def hint(self) -> str:
        """Return the end of the key's id."""
        return ending(self.access_key_id)

    @classmethod
    def server(cls, settings: Settings) -> dict[str, str]:
        """Return the operator's server of sources and publications."""
        return {"endpoint_url": settings.publish_s3_endpoint_url} if settings.publish_s3_endpoint_url else {}

    @classmethod
    def own(cls, settings: Settings) -> dict[str, str]:  # noqa: ARG003
        """Return the keys that the AWS tools of this account would use: environment, profile, or role."""
        import boto3  # noqa: PLC0415 - slow to load, and only a run without a service looks

        session = boto3.Session()
        keys = session.get_credentials()
        if keys is None:
            return {}
        named = {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "session_token": keys.token,
            "region": session.region_name,
        }
        return {name: value for name, value in named.items() if value}

    @classmethod
    def missing_here(cls, settings: Settings, doing: Doing) -> str | None:  # noqa: ARG003 (both take it)
        """Return that there are no keys."""
        return None if cls.own(settings) else "no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
