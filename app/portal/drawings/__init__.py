"""Drawings as inline SVG: pure functions from numbers to markup, without scripts, styles or anything from outside."""
