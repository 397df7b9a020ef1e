"""Tests of structured pruning in the engine."""
