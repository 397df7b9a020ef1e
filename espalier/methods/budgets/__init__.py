"""Budgets: they spread the sparsity over the matrices."""
