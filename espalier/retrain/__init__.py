"""A few parameters of the whole pruned model, or all, retrained; several models averaged."""
