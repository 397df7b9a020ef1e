"""Celery tasks: wake-up signals only."""
