"""Statements about other systems: registry events, webhooks, publications."""
