"""Loads from a disk that fails at the system call: a preloaded library stands between them."""
