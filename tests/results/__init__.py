"""Tables of numbers, measured through the API and kept as files: `python -m tests.results NAME`."""
