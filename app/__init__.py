"""The web service: HTTP API, specs, rows, files and the command line; never loads torch."""

VERSION = "0.1.0"
"""Of the distribution `espalier-service`."""
