"""What other systems tell and are told: sources, deliveries, rules and proposals; webhooks."""
