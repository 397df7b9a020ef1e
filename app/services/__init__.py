"""Use cases: what the API and the workers do to rows and files, one transaction each."""
