"""The history of the schema: one line of revisions for SQLite and Postgres."""
