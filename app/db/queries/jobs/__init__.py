"""Statements about jobs: what they are, what happens to them, what they leave behind and share."""
