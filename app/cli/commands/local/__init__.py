"""Commands that work on files here, without a service."""
