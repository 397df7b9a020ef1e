"""Tests of the bit-mask pack."""
