"""Compression methods: one file each, found by discovery; declarations load without torch."""
