"""Text that ships with Python itself."""
