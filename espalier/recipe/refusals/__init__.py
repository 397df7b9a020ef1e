"""How a request is refused: what is wrong, where in what was sent, and what this version has not built."""
