"""Pages of sign-in, API keys, audit log, usage and workers."""
