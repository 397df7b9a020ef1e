"""From trials to the next trial: pure functions."""
