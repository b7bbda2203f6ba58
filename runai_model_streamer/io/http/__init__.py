"""Moves bytes over HTTP and tries again, for every object store."""
