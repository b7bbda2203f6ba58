"""Explains failures of object stores to users. Every store shares this."""
