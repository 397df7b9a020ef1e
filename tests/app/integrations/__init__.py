"""Tests of where models and text come from."""
