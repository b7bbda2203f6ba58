"""Threads that end with what started them, and what a fork leaves of them."""
