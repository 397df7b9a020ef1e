"""Registry events: received from sources, matched by rules, turned into jobs or proposals."""
