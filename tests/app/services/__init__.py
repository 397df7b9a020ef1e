"""Tests of what the service does."""
