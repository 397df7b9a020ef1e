"""What a job is: strict request models, shared by the API, the supervisor and the compute child."""
