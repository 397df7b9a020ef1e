"""Projects, keys, sign-ins and secrets."""
