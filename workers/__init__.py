"""The Celery side and the compression engine."""
