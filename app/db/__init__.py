"""Rows: tables, sessions and the statements over them."""
