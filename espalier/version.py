"""The version of both distributions: the one place, which builds, the API and the command line read."""

from typing import Final

VERSION: Final = "0.1.0"
