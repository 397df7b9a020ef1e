"""The web service: HTTP API, specs, rows, files and the command line; never loads torch."""
