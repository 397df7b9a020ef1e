"""Posted forms, read within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.types import Receive

from app.errors import BodyTooLarge, MalformedRequest, UnsupportedBody

MAX_FORM_BYTES = 256 * 1024
MAX_FIELDS = 2000


class Form:
    """The fields of a form in order; a name may come several times."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def __contains__(self, name: str) -> bool:
        return any(key == name for key, _ in self._pairs)

    def get(self, name: str, default: str = "") -> str:
        """Return the last value of a field."""
        return next((value for key, value in reversed(self._pairs) if key == name), default)

    def all(self, name: str) -> list[str]:
        """Return every value of a field."""
        return [value for key, value in self._pairs if key == name]


async def read_form(headers: Headers, receive: Receive) -> Form:
    """Read a form of a request; raises what must be refused."""
    if headers.get("content-encoding", "identity").lower() not in {"", "identity"}:
        raise UnsupportedBody("Send the form uncompressed.")
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        body += message.get("body", b"")
        if len(body) > MAX_FORM_BYTES:
            raise BodyTooLarge
        if not message.get("more_body", False):
            break
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and media_type != "application/x-www-form-urlencoded":
        raise UnsupportedBody("Send the form with `Content-Type: application/x-www-form-urlencoded`.")
    try:
        pairs = parse_qsl(
            bytes(body).decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError:
        raise MalformedRequest("The form is not UTF-8, or has too many fields.") from None
    if any("\x00" in text for pair in pairs for text in pair):
        raise MalformedRequest("The form holds a NUL character.")
    return Form(pairs)
