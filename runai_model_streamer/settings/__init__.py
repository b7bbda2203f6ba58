"""The environment variables: one table, and parsers for their values."""
