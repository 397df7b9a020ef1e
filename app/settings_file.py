"""Checks of a file of settings and of the environment: a mistake in a name or a path is reported, never ignored."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from dotenv.parser import Binding, parse_stream

PREFIX = "ESPALIER_"
_OF_KUBERNETES = re.compile(rf"{PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)")
"""What Kubernetes tells every pod of a Service whose name begins with `espalier`."""


class BadFile(ValueError):
    """A file of settings cannot be used; the text says why, in one line."""


def check_file(path: Path, fields: Collection[str]) -> list[str]:
    """Return the names in a file of settings that are none of ours; raises BadFile for all that would be passed over.

    That is a file that is not there or cannot be read, a line that is no NAME=value, and an ESPALIER_ name that is no
    setting.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            bindings = [binding for binding in parse_stream(stream) if binding.original.string.strip()]
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise BadFile(f"{path} is no text in UTF-8") from None
    for binding in bindings:
        if _is_broken(binding):
            raise BadFile(f"{path}, line {binding.original.line}: not NAME=value")
    names = [binding.key for binding in bindings if binding.key]
    for name in unknown(names, fields):
        near = difflib.get_close_matches(name.upper(), [f"{PREFIX}{field.upper()}" for field in fields], 1, 0.8)
        raise BadFile(f"{path} names {name}, which is no setting{f'; did you mean {near[0]}?' if near else ''}")
    return sorted({name for name in names if not name.upper().startswith(PREFIX)})


def _is_broken(binding: Binding) -> bool:
    return binding.error or (binding.key is not None and binding.value is None)


def unknown(names: Iterable[str], fields: Collection[str]) -> list[str]:
    """Return the ESPALIER_ names that are no settings; what Kubernetes makes of Services is left out."""
    known = {f"{PREFIX}{field.upper()}" for field in fields}
    ours = sorted({name for name in names if name.upper().startswith(PREFIX)})
    return [name for name in ours if name.upper() not in known and not _OF_KUBERNETES.fullmatch(name)]
