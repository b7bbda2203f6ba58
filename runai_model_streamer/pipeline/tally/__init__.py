"""Counts and times of a load."""
