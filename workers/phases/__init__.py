"""The named steps of a job, as the compute child runs them."""
