"""The supervisor: claims jobs, runs children, writes rows; never loads torch."""
