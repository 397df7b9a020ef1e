"""Jobs and what they leave: /v1/jobs."""
