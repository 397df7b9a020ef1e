"""The object store: one interface, a directory and S3 behind it."""
