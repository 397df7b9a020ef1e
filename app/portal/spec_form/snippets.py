"""The request of the form as JSON, curl and Python."""

from __future__ import annotations

import json
import pprint
import shlex
from typing import Any


def every(body: dict[str, Any], base_url: str, *, keyed: bool) -> dict[str, str]:
    """Return the request as JSON, as a command and as a program; `keyed` where the service asks for a key."""
    return {
        "JSON": _json(body),
        "curl": _curl(body, base_url, keyed=keyed),
        "Python": _python(body, base_url, keyed=keyed),
    }


def _json(body: dict[str, Any]) -> str:
    return json.dumps(body, indent=2, ensure_ascii=False)


def _curl(body: dict[str, Any], base_url: str, *, keyed: bool) -> str:
    lines = [
        f"curl -X POST {shlex.quote(f'{base_url}/v1/jobs')}",
        *(['  -H "Authorization: Bearer $ESPALIER_API_KEY"'] if keyed else []),
        "  -H 'Content-Type: application/json'",
        f"  -d {shlex.quote(_json(body))}",
    ]
    return " \\\n".join(lines)


def _python(body: dict[str, Any], base_url: str, *, keyed: bool) -> str:
    key = ', api_key=os.environ["ESPALIER_API_KEY"]' if keyed else ""
    head = "import os\n\n" if keyed else ""
    text = pprint.pformat(body, indent=1, width=88, sort_dicts=False)
    return (
        f"{head}from espalier import Client\n\n"
        f"body = {text}\n\n"
        f"with Client({base_url!r}{key}) as client:\n"
        "    print(client.submit(body).id)\n"
    )
