"""What several families have in common: the declaration itself, positions, attention, mixtures of experts."""
