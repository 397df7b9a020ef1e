"""Proofs against a real MLflow server (`make registry`)."""
