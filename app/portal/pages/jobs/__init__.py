"""Jobs as a person sees them: the list, one of them, a new one, several side by side, all that were made at once."""
