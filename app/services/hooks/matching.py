"""Whether an event is what a rule is about: one check per condition, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from app.bodies.hooks import Match
from app.integrations.shared.hooks import RegistryEvent
from app.services.hooks import globs

MAIN: Final = "refs/heads/main"
"""What a rule without `ref_glob` is about, where a registry has Git references."""


@dataclass(frozen=True)
class Check:
    """One condition, and why it holds or not."""

    name: str
    passed: bool
    detail: str


def match_event(match: Match, event: RegistryEvent) -> tuple[RegistryEvent, list[Check]]:
    """Hold an event against a rule; return it pinned to the reference that the rule is about, and every check."""
    glob = match.ref_glob or MAIN
    ref = next((ref for ref in event.refs if globs.matches(glob, ref)), None)
    checks = list(_checks(match, event))
    if event.refs:
        reason = f"{ref} matches {glob}" if ref else f"none of {', '.join(list(event.refs)[:5])} matches {glob}"
        checks.append(Check("ref_glob", ref is not None, reason))
    return (event.at(ref) if ref else event), checks


def _checks(match: Match, event: RegistryEvent) -> Iterator[Check]:
    yield Check("new-version", event.source is not None, event.why_not or "there is a version to compress")
    yield _about(match, event)
    holds = globs.matches(match.repo_glob, event.model)
    yield Check("repo_glob", holds, f"the name {'matches' if holds else 'does not match'} {match.repo_glob}")
    if match.exclude_glob is not None:
        out = globs.matches(match.exclude_glob, event.model)
        yield Check("exclude_glob", not out, f"the name {'matches' if out else 'does not match'} {match.exclude_glob}")
    if match.alias is not None:
        same = event.alias == match.alias
        yield Check("alias", same, f"the event {'is' if same else 'is not'} about the alias {match.alias}")
    for key, wanted in match.tags.items():
        value = event.tags.get(key)
        holds = value is not None and globs.matches(wanted, value)
        state = "matches" if holds else "is missing" if value is None else "does not match"
        yield Check("tags", holds, f"the tag {key} {state}{'' if value is None else ' ' + wanted}")


def _about(match: Match, event: RegistryEvent) -> Check:
    if match.events:
        holds = any(globs.matches(one, event.event) or event.event.startswith(f"{one}.") for one in match.events)
        return Check("events", holds, f"{event.event} is {'one' if holds else 'none'} of the rule's events")
    wanted = "version" if match.alias is None else "alias"
    text = {"version": "new versions", "alias": "aliases"}[wanted]
    holds = event.what == wanted
    return Check("events", holds, f"{event.event} is {'one' if holds else 'none'} of the events about {text}")
