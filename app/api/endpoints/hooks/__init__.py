"""Incoming registry events (sources, deliveries, rules, proposals) and outgoing webhooks."""
