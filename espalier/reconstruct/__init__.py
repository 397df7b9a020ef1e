"""The second walk: what was pruned is refit window by window, masks fixed."""
