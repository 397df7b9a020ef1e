"""`python -m tests.same_bytes REV`: proof that the code of the working tree gives the bytes of an older commit."""
