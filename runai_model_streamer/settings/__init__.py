"""The environment variables: one table, and the parsers of their values."""
