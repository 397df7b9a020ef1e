"""The portal in a real browser: `make browser`."""
