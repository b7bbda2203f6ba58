"""Loads onto one GPU by this package and by others, cold and warm."""
