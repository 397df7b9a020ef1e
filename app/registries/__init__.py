"""Model registries that tell of new versions: one file each, discovered."""
