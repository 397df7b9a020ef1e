"""Which paths of this machine a request may name."""

from __future__ import annotations

from pathlib import Path

from app.errors import NotAvailable
from app.settings import Settings
from espalier.errors import Problem


def refusal(pointer: str, path: str, settings: Settings, *, folder: bool) -> Problem | None:
    """Return why a path is not read; outside of the roots nothing tells whether it exists."""
    if settings.mode == "production":
        return Problem(pointer, NotAvailable.code, "local paths are off in production")
    try:
        resolved = Path(path).resolve() if Path(path).is_absolute() else None
        if resolved is None or not any(resolved.is_relative_to(root) for root in settings.roots):
            return Problem(
                pointer,
                "outside-roots",
                "give an absolute path below one of the folders in ESPALIER_LOCAL_ROOTS, or `espalier upload` it",
            )
        if not (resolved.is_dir() if folder else resolved.is_file()):
            wanted = "this is a file: give the model's folder" if folder else "this is a folder: give one file of text"
            why = wanted if resolved.exists() else "there is nothing at this path"
            return Problem(pointer, "no-such-folder" if folder else "no-such-file", why)
    except (OSError, RuntimeError):  # a name longer than the file system takes, or a link that leads back to itself
        return Problem(pointer, "bad-path", "no file can have this name")
    return None
