"""Where results go; each target is one file."""
