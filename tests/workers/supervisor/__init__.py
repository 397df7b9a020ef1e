"""Tests of the supervisor side."""
