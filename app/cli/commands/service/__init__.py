"""Commands that start a service, its parts and its first key, and watch its workers."""
