"""Documents that are made from the code, and the command that writes them: `python -m tests.docs`."""
