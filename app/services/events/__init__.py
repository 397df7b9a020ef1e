"""Events: streams, their cursor, and the outbox."""
