"""The same stack with nothing of ours in it: one POST, one INSERT of a row as wide as a job's, one answer."""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import JSON, Column, DateTime, MetaData, String, Table, create_engine, func, insert

from app.platform.ids import new_id

TABLE = Table(
    "bare", MetaData(), Column("id", String, primary_key=True), Column("body", JSON), Column("created_at", DateTime)
)


class Body(BaseModel):
    """As much of a job's body as has to be looked at to store it."""

    source: dict[str, Any]
    spec: dict[str, Any]


def create_app() -> FastAPI:
    """Build the application over the database of the environment."""
    engine = create_engine(os.environ["ESPALIER_DATABASE_URL"], pool_size=16, max_overflow=16, pool_pre_ping=True)
    TABLE.create(engine, checkfirst=True)
    app = FastAPI()

    @app.post("/bare", status_code=202)
    def bare(body: Body) -> dict[str, Any]:
        row = {"id": new_id("bare"), "body": body.model_dump()}
        with engine.begin() as connection:
            connection.execute(insert(TABLE).values(**row, created_at=func.now()))
        return row

    return app
