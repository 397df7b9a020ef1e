"""Commands about the jobs of a service."""
