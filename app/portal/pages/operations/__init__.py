"""Who may enter, what they did and used, and what runs."""
