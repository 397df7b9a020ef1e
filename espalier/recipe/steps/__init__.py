"""The steps of a spec and their parameters: texts, pruning, recovery, evaluation, output, the objective."""
