"""Where models and text come from: a library that knows files and hubs, and nothing of jobs."""
