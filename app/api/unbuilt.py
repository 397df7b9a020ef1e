"""Paths of the contract that this version has not built: refused by name, never by accident."""

from __future__ import annotations

from typing import NoReturn

from fastapi import APIRouter, Request

from app.errors import NotAvailable

router = APIRouter(include_in_schema=False)

_VERBS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_PATHS = [
    "/v1/hook-sources", "/v1/hook-sources/{path:path}",
    "/v1/hooks/{source_id}", "/v1/hook-deliveries", "/v1/hook-deliveries/{path:path}", "/v1/rules",
    "/v1/rules/{path:path}",
]  # fmt: skip


def _refuse(request: Request) -> NoReturn:
    path = request.scope["route"].path.replace(":path", "")
    raise NotAvailable(f"{request.method} {path} is not available in this version.")


for _path in _PATHS:
    router.add_api_route(_path, _refuse, methods=_VERBS, response_model=None)
