"""The bodies of requests: how they are read, and what they may say."""
