"""What window fits and whole retrainings share: parameters that move, losses, rates."""
