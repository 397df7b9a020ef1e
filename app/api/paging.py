"""Keyset pagination: opaque cursors, signed together with the list that they belong to."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.errors import InvalidCursor
from app.settings import Settings
from espalier.recipe.base import canonical

Row = TypeVar("Row")
View = TypeVar("View", bound=BaseModel)
MAX_PAGE_BYTES = 2 * 2**20
_SIGNATURE_BYTES = 12

Cursor = Annotated[str | None, Field(max_length=500, description="`next_cursor` of the page before.")]


class Query(BaseModel):
    """Parameters of a list; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(Query):
    """Parameters of a list in pages."""

    limit: int = Field(50, ge=1, le=200, description="Items of one page.")
    cursor: Cursor = None


class Page(BaseModel, Generic[View]):
    """One page of a list; the Link header (rel="next") leads to the next one."""

    items: list[View]
    next_cursor: str | None = Field(description="Null on the last page.")


class Pager:
    """Reads and writes the cursors of one request."""

    def __init__(self, request: Request, response: Response, settings: Settings) -> None:
        self._request, self._response = request, response
        self._key = settings.api_key_pepper.get_secret_value().encode()

    def position(self, query: PageQuery) -> str | None:
        """Return where the page begins; raises InvalidCursor on a cursor of another list."""
        if query.cursor is None:
            return None
        try:
            token = base64.urlsafe_b64decode(query.cursor.encode() + b"=" * (-len(query.cursor) % 4))
            signature, position = token[:_SIGNATURE_BYTES], token[_SIGNATURE_BYTES:].decode()
        except ValueError:
            raise InvalidCursor from None
        if not hmac.compare_digest(signature, self._sign(query, position)):
            raise InvalidCursor
        return position

    def number(self, query: PageQuery, default: int) -> int:
        """Return where the page begins in a list that is numbered."""
        position = self.position(query)
        return default if position is None else int(position)

    def page(
        self,
        query: PageQuery,
        rows: Sequence[Row],
        view: Callable[[Row], View],
        position: Callable[[Row], str | int],
    ) -> Page[View]:
        """Make a page of up to `limit` rows; one row more than that tells that there is a next page.

        A page is shorter where its items are long: it is rendered in one piece, which blocks its thread.
        """
        items: list[View] = []
        size = 0
        for row in rows[: query.limit]:
            item = view(row)
            size += len(item.model_dump_json())
            if items and size > MAX_PAGE_BYTES:
                break
            items.append(item)
        cursor = self._write(query, str(position(rows[len(items) - 1]))) if len(rows) > len(items) else None
        if cursor:
            url = self._request.url.include_query_params(cursor=cursor)
            self._response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
        return Page(items=items, next_cursor=cursor)

    def _write(self, query: BaseModel, position: str) -> str:
        return base64.urlsafe_b64encode(self._sign(query, position) + position.encode()).decode().rstrip("=")

    def _sign(self, query: BaseModel, position: str) -> bytes:
        filters = query.model_dump(mode="json", exclude={"limit", "cursor", "after"})
        message = canonical([self._request.url.path, filters, position]).encode()
        return hmac.new(self._key, message, hashlib.sha256).digest()[:_SIGNATURE_BYTES]
