"""The HTTP contract, versioned by its prefix `/v1`: endpoints by subject, a module each, whose `router` is served."""
