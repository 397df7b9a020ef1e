"""A job: made, listed, moved, watched, its results fetched and published."""
