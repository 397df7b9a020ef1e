"""Projects, API keys, credentials and the audit log."""
