"""The view of what workers can claim now, for the trigger of whoever starts workers and for our own wake-up signals."""

from __future__ import annotations

from sqlalchemy import BigInteger, String, column, table

CLAIMABLE_VIEW = table(
    "espalier_claimable",
    column("job_id", String),
    column("project_id", String),
    column("worker_class", String),
    column("place", BigInteger),
)
"""Jobs that are due, wait for no other job, and for which the quotas of their project leave room; made by a migration.

`place` counts the jobs of a project in a worker class. A project that may start two more jobs has two rows.
"""
