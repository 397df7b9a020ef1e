"""Jobs: admitted, made, controlled, read."""
