"""Documents in files of the usual formats, read as one plain text."""
