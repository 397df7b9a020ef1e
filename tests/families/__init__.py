"""What stock transformers has of decoders, tried and written down: `python -m tests.families`."""
