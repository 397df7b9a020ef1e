"""The steps of a job and what each may be told: texts, pruning, recovery, measurements, output, the objective."""
