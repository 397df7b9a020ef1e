"""The proof on a GPU: one process that measures rows by their value and writes each when it is done."""
