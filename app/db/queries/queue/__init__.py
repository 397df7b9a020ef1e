"""Statements about who works on what next: leases, places, shares, workers, wake-up signals, the leader."""
