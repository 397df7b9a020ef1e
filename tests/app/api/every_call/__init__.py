"""What holds for all calls alike, whatever resource they are about."""
