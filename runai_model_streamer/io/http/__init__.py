"""Moves bytes over HTTP and retries, for every object store."""
