"""Celery tasks: doorbells only."""
