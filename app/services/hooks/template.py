"""The body of a job from a rule's template and an event: placeholders of a closed set, nothing else is interpreted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from app.bodies.hooks import Template
from app.integrations.shared.hooks import RegistryEvent
from espalier.errors import Problem
from espalier.recipe.refusals import pointers

STANDINS: Final = {
    "model": "owner/name",
    "owner": "owner",
    "name": "name",
    "revision": "0" * 40,
    "short_revision": "0" * 12,
    "version": "1",
    "branch": "main",
    "alias": "alias",
}
"""Every placeholder, and what a template is checked with."""
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")


class Unfilled(Exception):
    """Placeholders that are unknown, or that an event says nothing of."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(problem.detail for problem in problems))
        self.problems = problems


def values_of(event: RegistryEvent) -> dict[str, str]:
    """Return what an event puts in the place of placeholders."""
    owner, _, name = event.model.rpartition("/")
    branch = (event.ref or "").removeprefix("refs/heads/").removeprefix("refs/tags/")
    values = {
        "model": event.model,
        "owner": owner,
        "name": name,
        "revision": event.revision,
        "short_revision": (event.revision or "")[:12],
        "version": event.version,
        "branch": branch,
        "alias": event.alias,
    }
    return {key: value for key, value in values.items() if value}


def spec_of(template: Template, values: Mapping[str, str]) -> dict[str, Any]:
    """Return the spec of the job, placeholders filled; raises Unfilled, with pointers into the rule."""
    problems: list[Problem] = []
    spec: dict[str, Any] = _filled(template.spec or {}, values, ["template", "spec"], problems)
    publish = _filled(template.publish, values, ["template", "publish"], problems)
    if template.preset is not None:
        spec = {"preset": template.preset, **spec}
    if publish:
        output = spec.get("output") or {}
        if not isinstance(output, dict) or output.get("publish"):
            detail = "publish in one place: here, or in `spec.output.publish`"
            problems.append(Problem("/template/publish", "two-places", detail))
        else:
            spec = {**spec, "output": {**output, "publish": publish}}
    if problems:
        raise Unfilled(problems)
    return spec


def _filled(value: Any, values: Mapping[str, str], at: list[str | int], problems: list[Problem]) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return {key: _filled(item, values, [*at, key], problems) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, values, [*at, index], problems) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    for name in _PLACEHOLDER.findall(value):
        if name not in STANDINS:
            known = ", ".join(f"{{{one}}}" for one in STANDINS)
            problems.append(Problem(pointers.join(at), "unknown-placeholder", f"placeholders are {known}"))
        elif name not in values:
            problems.append(Problem(pointers.join(at), "empty-placeholder", f"the event has no {{{name}}}"))
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], ""), value)
