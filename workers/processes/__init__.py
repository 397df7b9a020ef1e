"""Child processes and what this machine gives them."""
