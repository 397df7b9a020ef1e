"""One job while it is computed: its model and weights, what it tells, what it takes up again, what it may take."""

from __future__ import annotations

from espalier.session.state import Session

__all__ = ["Session"]
