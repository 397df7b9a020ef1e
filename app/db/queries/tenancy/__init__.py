"""Statements about tenants: projects, keys, sign-ins, sealed secrets, use."""
