"""Child jobs: a search's trials and a soup's members run as jobs of their own."""
