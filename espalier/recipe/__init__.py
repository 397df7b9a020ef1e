"""Specs of jobs: strict, torch-free models of the steps, and content hashes of all that decides the bytes."""
