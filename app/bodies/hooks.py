"""Request bodies of registry events: sources, rules, trials of rules."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from espalier.recipe.base import Spec

Name = Annotated[str, Field(min_length=1, max_length=200)]
Glob = Annotated[str, Field(min_length=1, max_length=300)]
Mode = Literal["dry_run", "propose", "run"]
SECRET = "The registry's side of it; default: a fresh one, shown once."  # noqa: S105 - a description


class SourceRequest(Spec):
    """A registry whose events are taken."""

    name: Name
    kind: str = Field(max_length=50, description="huggingface, mlflow, or generic (Standard Webhooks).")
    secret: str | None = Field(None, max_length=300, description=SECRET)


class SourceChange(Spec):
    """Changes of a source."""

    name: Name


class SecretRotation(Spec):
    """A new secret for a source."""

    secret: str | None = Field(None, max_length=300, description=SECRET)
    overlap_seconds: int = Field(86_400, ge=0, le=86_400, description="How long the old one is accepted beside it.")


class Match(Spec):
    """The events that a rule matches; all conditions must hold. `*` in a glob matches `/` too."""

    events: list[Glob] = Field(
        [],
        max_length=20,
        description="Event names, their beginnings (`repo.content`) or globs; empty: new versions, or aliases if "
        "`alias` is given.",
    )
    repo_glob: Glob = Field("*", description="Of the model's name: org/*.")
    exclude_glob: Glob | None = Field(None, description="Names that are left out.")
    ref_glob: Glob | None = Field(None, description="Of the Git reference; null: refs/heads/main.")
    alias: str | None = Field(None, min_length=1, max_length=200, description="The alias that points to the version.")
    tags: dict[Annotated[str, Field(min_length=1, max_length=250)], Annotated[str, Field(max_length=500)]] = Field(
        {}, max_length=20, description="Tags of the event: key -> glob of its value."
    )


def _as_list(value: object) -> object:
    return [value] if isinstance(value, dict) else value


Target = Annotated[dict[str, Any], Field(max_length=50)]
Targets = Annotated[list[Target], Field(max_length=8)]


class Template(Spec):
    """The job that an event becomes. `{model}` and other placeholders stand for fields of the event."""

    preset: str | None = Field(None, max_length=100, description="name or name@version.")
    spec: dict[str, Any] | None = Field(None, max_length=50, description="As in a job; wins over the preset.")
    publish: Annotated[
        Targets,
        BeforeValidator(_as_list, json_schema_input_type=Target | Targets),
    ] = Field([], description="As `output.publish` of a spec: where the result goes.")

    @model_validator(mode="after")
    def _says_what_to_do(self) -> Template:
        if self.preset is None and self.spec is None:
            raise PydanticCustomError("nothing_to_do", "give a `preset`, a `spec`, or both", {"at": "spec"})
        if self.preset and self.spec and "preset" in self.spec:
            raise PydanticCustomError("two_presets", "name one preset: here or in `preset`", {"at": "spec/preset"})
        return self


class RuleLimits(Spec):
    """Rate limits of a rule; events beyond them are recorded and start nothing."""

    max_per_day: int = Field(1000, ge=1, le=100_000, description="Events a day (UTC).")
    cooldown_seconds: int = Field(0, ge=0, le=30 * 86_400, description="Pause after an event, whatever its model.")


class RuleRequest(Spec):
    """A rule that turns matching events of a source into jobs."""

    name: Name
    source_id: str = Field(max_length=64)
    mode: Mode = Field("propose", description="Write down only, plan and wait for a person, or make the job.")
    enabled: bool = True
    match: Match = Match()
    template: Template
    limits: RuleLimits = RuleLimits()


class RuleChange(Spec):
    """Changes of a rule; fields left out stay, and an object replaces the one before as a whole."""

    name: Name | None = None
    mode: Mode | None = None
    enabled: bool | None = None
    match: Match | None = None
    template: Template | None = None
    limits: RuleLimits | None = None


class RuleTrial(Spec):
    """A delivery or document to try a rule on, without effects."""

    delivery_id: str | None = Field(None, max_length=64, description="A stored delivery of the rule's source.")
    payload: dict[str, Any] | None = Field(
        None, max_length=1000, description="A document as the registry would send it."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> RuleTrial:
        if (self.delivery_id is None) == (self.payload is None):
            raise PydanticCustomError("one_of_both", "give either `delivery_id` or `payload`", {"at": "payload"})
        return self
