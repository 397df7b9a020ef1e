"""Equal work is done once."""
