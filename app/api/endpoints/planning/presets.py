"""Presets: named, versioned parts of specs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import Field

from app.api.paging import Page
from app.api.views import View
from app.dependencies import ProjectDep, ResourcesDep
from app.services import presets
from espalier.recipe.base import Spec
from espalier.recipe.presets import SHIPPED, PresetVersion

router = APIRouter(prefix="/v1/presets", tags=["presets"])

Name = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="Lower-case letters, digits, . _ -")]
NameAtVersion = Annotated[str, Path(max_length=80, description="`name`, or `name@version`.")]


class PresetView(View):
    """One version of a preset."""

    name: str
    version: int
    description: str
    spec: dict[str, Any]
    """The part of a spec that it stands for; explicit fields win over it."""
    built_in: bool


class PresetRequest(Spec):
    """The next version of a preset."""

    description: str = Field("", max_length=500)
    spec: dict[str, Any] = Field(min_length=1, max_length=32, description="A part of a job's spec.")


@router.get("")
def list_presets(resources: ResourcesDep, project: ProjectDep) -> Page[PresetView]:
    """List presets, the newest version of each."""
    return Page(items=[_view(preset) for preset in presets.every(resources.database, project)], next_cursor=None)


@router.get("/{name}")
def get_preset(name: NameAtVersion, resources: ResourcesDep, project: ProjectDep) -> PresetView:
    """Show a preset."""
    return _view(presets.get(resources.database, project, name))


@router.put("/{name}")
def put_preset(name: Name, body: PresetRequest, resources: ResourcesDep, project: ProjectDep) -> PresetView:
    """Write the next version of a preset; one that ships with the service is replaced for this project."""
    return _view(presets.put(resources.database, project, name, description=body.description, spec=dict(body.spec)))


@router.delete("/{name}", status_code=204)
def delete_preset(name: Name, resources: ResourcesDep, project: ProjectDep) -> None:
    """Forget a preset of your own; old versions can still be named."""
    presets.delete(resources.database, project, name)


def _view(preset: PresetVersion) -> PresetView:
    return PresetView(
        name=preset.name,
        version=preset.version,
        description=preset.description,
        spec=dict(preset.spec),
        built_in=preset in SHIPPED,
    )
