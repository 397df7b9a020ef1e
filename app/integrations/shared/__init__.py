"""What every integration declares, and the cache that sources fill."""
