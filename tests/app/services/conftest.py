"""The application, for services that are easiest asked through it."""

from __future__ import annotations

from tests.fixtures.service.api import app, client, resources, settings

__all__ = ["app", "client", "resources", "settings"]
