"""How good and how fast a model is, and whether it is the one that stock transformers loads."""
