"""The stock class with its weights left on disk: layout, tensors, names, files."""
