"""Reconstruction: refit the kept weights window by window, masks fixed."""
