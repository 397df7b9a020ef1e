"""Registry events: taken from sources, held against rules, made jobs or proposals."""
