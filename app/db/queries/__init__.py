"""Every SQL statement, grouped by the rows it is about."""
