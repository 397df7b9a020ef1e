"""Celery workers and the processes of a job; the compression itself is the package `espalier`."""

import gc

# Modules live as long as the process: to look for garbage among them while they load takes a fifth of the start.
gc.set_threshold(20_000, 50, 10)
