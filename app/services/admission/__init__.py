"""What POST can know of a request: its paths, its model, its texts, the workers that it needs."""
