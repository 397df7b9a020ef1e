"""Endpoints for operators: health, metrics, queues, workers, usage."""
