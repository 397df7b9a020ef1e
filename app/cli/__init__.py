"""The `espalier` command: client verbs speak HTTP, the others start processes."""
