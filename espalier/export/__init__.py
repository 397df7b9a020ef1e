"""The artifact: weights, masks, report, card, manifest, and its score."""
