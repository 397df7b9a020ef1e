"""Request bodies: strict JSON, and the models that validate it."""
