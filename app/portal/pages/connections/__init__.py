"""Pages of incoming registry events, rules and outgoing webhooks."""
