"""Hidden states on their way through the blocks, and what is seen of them."""
