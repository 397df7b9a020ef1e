"""Who may call: projects, keys, credentials, the audit log."""
