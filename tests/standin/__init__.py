"""The engine on a pretend accelerator: what would break or crawl on a card shows on a machine without one."""
