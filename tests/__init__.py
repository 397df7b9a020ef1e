"""Tests; the tree mirrors app and workers."""
