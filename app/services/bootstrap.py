"""`python -m app.services.bootstrap`: makes an API key by the database itself, before there is one to ask with."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from app.bodies.access import SCOPES, KeyRequest
from app.db.migrate import is_current
from app.db.session import Database
from app.errors import AppError
from app.platform.actor import DEFAULT_PROJECT, LOCAL, acting
from app.production import leave_unsafe_production
from app.services.tenancy import keys
from app.settings import get_settings


def main() -> int:
    """Make a key and print it."""
    parser = argparse.ArgumentParser(description="Makes an API key.")
    parser.add_argument("--name", default="bootstrap")
    parser.add_argument("--project", default=DEFAULT_PROJECT)
    parser.add_argument("--scope", action="append", dest="scopes", help=f"one of {', '.join(SCOPES)}; repeatable")
    parser.add_argument("--days", type=float, help="life of the key")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    expires = datetime.now(UTC) + timedelta(days=options.days) if options.days is not None else None
    settings = get_settings()
    leave_unsafe_production(settings)
    database = Database(settings.database)
    try:
        if not is_current(database):
            sys.stderr.write("The database is not of this version: run `espalier migrate` first.\n")
            return 1
        request = KeyRequest(name=options.name, scopes=options.scopes or ["admin"], expires_at=expires)
        with acting(LOCAL):
            row, token = keys.create(database, settings, request, options.project)
    except ValidationError as error:
        sys.stderr.write(f"{error.errors(include_url=False, include_input=False)[0]['msg']}\n")
        return 2
    except AppError as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    except OperationalError as error:
        sys.stderr.write(f"The database does not answer: {error.orig}\n")
        return 1
    finally:
        database.dispose()
    if options.json:
        sys.stdout.write(
            json.dumps({"id": row.id, "project_id": row.project_id, "scopes": row.scopes, "key": token}) + "\n"
        )
        return 0
    sys.stderr.write(f"{row.id} of {row.project_id}, scopes {', '.join(row.scopes)}; the key is shown this once:\n")
    sys.stdout.write(token + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
