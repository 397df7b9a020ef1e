"""The form of a job, made from the schema of its body: what the schema gains, the form shows."""
