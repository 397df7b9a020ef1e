"""What production does not start with: every process of it asks here first."""

from __future__ import annotations

from sqlalchemy import make_url

from app.settings import DEFAULT_CREDENTIALS_KEY, DEFAULT_PEPPER, Settings


def refuse_unsafe_production(settings: Settings) -> None:
    """Raise ValueError when production would run with what is only safe on one machine."""
    if settings.mode != "production":
        return
    faults = {
        "ESPALIER_API_KEY_PEPPER is the default": settings.api_key_pepper.get_secret_value() == DEFAULT_PEPPER,
        "ESPALIER_CREDENTIALS_KEY is the default": DEFAULT_CREDENTIALS_KEY
        in settings.credentials_key.get_secret_value(),
        "ESPALIER_DATABASE_URL is SQLite": make_url(settings.database).get_backend_name() == "sqlite",
        "ESPALIER_STORE_URL is a folder": not settings.store.startswith("s3://"),
        "ESPALIER_OIDC_ISSUER is not https": settings.oidc_issuer.startswith("http:"),
        "ESPALIER_OIDC_ISSUER takes ESPALIER_PUBLIC_URL": bool(settings.oidc_issuer) and not settings.public_url,
    }
    found = [fault for fault, there in faults.items() if there]
    if found:
        raise ValueError(f"production does not start: {'; '.join(found)}")


def leave_unsafe_production(settings: Settings) -> None:
    """The same for processes that end with a sentence."""
    try:
        refuse_unsafe_production(settings)
    except ValueError as error:
        raise SystemExit(str(error)) from None
