"""Models and texts that a client sent."""
