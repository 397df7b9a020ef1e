"""Who may ask, and how much: projects, keys, quotas."""
