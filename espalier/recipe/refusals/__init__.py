"""Refusals of a request: what is wrong, where in the body that was sent, and what this version does not build."""
