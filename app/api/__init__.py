"""HTTP endpoints: they parse nothing and decide nothing."""
