"""State of one job while it is computed: model, weights, reports, resumption and memory limits."""

from __future__ import annotations

from espalier.session.state import Session

__all__ = ["Session"]
