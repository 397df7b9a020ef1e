"""Models and texts on this machine."""
