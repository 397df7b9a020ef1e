"""What other systems tell and are told: registries, rules, webhooks."""
