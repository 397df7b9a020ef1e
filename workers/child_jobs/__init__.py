"""Jobs that let other jobs do a part of their work."""
