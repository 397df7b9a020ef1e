"""Statements about what other systems tell and are told: registry events, webhooks, publications."""
