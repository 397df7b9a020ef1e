"""What a job is: strict, torch-free models of its steps, and the hashes of what decides its bytes."""
