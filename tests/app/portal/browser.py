"""A browser without JavaScript: cookies kept, forms posted with their token."""

from __future__ import annotations

import re
from typing import Any

from fastapi.testclient import TestClient
from httpx2 import Response

from tests.fixtures.service.requests import submit


class Browser:
    """A browser without JavaScript."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.csrf = ""

    def get(self, path: str, **headers: str) -> Response:
        """Open a page, and note the token of its forms."""
        answer = self.client.get(path, headers={"accept": "text/html", **headers})
        if token := re.search(r'name="csrf" value="([0-9a-f]{64})"', answer.text):
            self.csrf = token[1]
        return answer

    def post(self, path: str, fields: dict[str, Any] | None = None, **headers: str) -> Response:
        """Post a form of the page that was opened last."""
        return self.client.post(path, data={"csrf": self.csrf, **(fields or {})}, headers=headers)

    def submit(self, **fields: Any) -> str:
        """Queue a job by the API and return its id."""
        return submit(self.client, **fields)
