"""The commands, by subject and one module each: its `commands` are verbs of `espalier`."""
