"""What a request would take, before there is a job."""
