"""Whoever can sign by Standard Webhooks."""
