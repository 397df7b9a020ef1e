"""Trainable parameters, losses and learning rates, for window fits and for whole retrainings."""
