"""Many clients, many jobs, many watchers: `make load`."""
