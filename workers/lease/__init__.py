"""The lease of a job: held by heartbeats, lost, or ended by a transition."""
