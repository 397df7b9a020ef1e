"""Celery workers and the processes of a job; the compression itself is the package `espalier`."""
