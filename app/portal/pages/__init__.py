"""The pages, one module each: its `router` is mounted, and its `NAVIGATION`, if it has one, stands in the menu."""
