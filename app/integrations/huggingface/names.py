"""Names at the Hugging Face Hub, as a request may give them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

RepoId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?$", max_length=200)]
