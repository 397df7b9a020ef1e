"""The lease of a job: held by heartbeats, lost when it expires, or ended by a transition."""
