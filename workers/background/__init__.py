"""Background loops beside the jobs: webhook delivery, publication, polling, reconciliation, garbage collection."""
