"""Solvers: they refit the kept weights of one matrix."""
