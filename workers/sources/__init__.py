"""Where models and text come from: one file each."""
