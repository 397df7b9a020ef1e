"""Checks of the settings before a production process starts; `python -m app.production` runs them alone."""

from __future__ import annotations

from app.settings import DEFAULT_CREDENTIALS_KEY, DEFAULT_PEPPER, Settings, get_settings

LEAST_SECRET = 16
"""Characters of the pepper, and of each key that seals credentials: a shorter one is found by trying."""


def refuse_unsafe_production(settings: Settings) -> None:
    """Raise ValueError when production would run with settings that are safe on one machine only."""
    if settings.mode != "production":
        return
    pepper, keys = settings.api_key_pepper.get_secret_value(), settings.credentials_key.get_secret_value()
    faults = {
        "ESPALIER_API_KEY_PEPPER is the default": pepper == DEFAULT_PEPPER,
        f"ESPALIER_API_KEY_PEPPER has fewer than {LEAST_SECRET} characters": len(pepper) < LEAST_SECRET,
        "ESPALIER_CREDENTIALS_KEY is the default": DEFAULT_CREDENTIALS_KEY in keys,
        f"ESPALIER_CREDENTIALS_KEY has a key of fewer than {LEAST_SECRET} characters": any(
            len(key.strip()) < LEAST_SECRET for key in keys.split(",")
        ),
        "ESPALIER_DATABASE_URL is missing": not settings.database_url,
        "ESPALIER_DATABASE_URL is SQLite": settings.database_url.startswith("sqlite"),
        "ESPALIER_BROKER_URL is missing": not settings.broker_url,
        "ESPALIER_BROKER_URL is a broker of one machine": settings.broker_url.startswith("filesystem:"),
        "ESPALIER_STORE_URL is missing": not settings.store_url,
        "ESPALIER_STORE_URL is a folder": bool(settings.store_url) and not settings.store_url.startswith("s3://"),
        "ESPALIER_OIDC_ISSUER is not https": settings.oidc_issuer.startswith("http:"),
        "ESPALIER_OIDC_ISSUER takes ESPALIER_PUBLIC_URL": bool(settings.oidc_issuer) and not settings.public_url,
    }
    unsafe = [fault for fault, there in faults.items() if there]
    if unsafe:
        raise ValueError(f"production does not start: {'; '.join(unsafe)}")


def leave_unsafe_production(settings: Settings) -> None:
    """Exit with the message where `refuse_unsafe_production` raises."""
    try:
        refuse_unsafe_production(settings)
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    leave_unsafe_production(get_settings())
