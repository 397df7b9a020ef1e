"""The version of both distributions, read by builds, the API and the command line."""

from typing import Final

VERSION: Final = "0.1.0"
