"""Models of stock transformers with their weights on disk: layout, tensors, names, files."""
