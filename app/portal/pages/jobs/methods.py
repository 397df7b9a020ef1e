"""Every method with its one line and its paper, to be chosen from."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.portal.deps import needs
from app.portal.navigation import MenuEntry
from app.portal.rendering import render
from app.portal.spec_form.option_texts import catalogue

router = APIRouter(dependencies=[needs("jobs:read")])
NAVIGATION = MenuEntry("Methods", "/portal/methods", 90)


@router.get("/methods")
def methods_page(request: Request) -> Response:
    """List the methods by the field that names them."""
    return render(request, "methods.html", catalogue=catalogue())
