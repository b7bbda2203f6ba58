"""Connects the ranks of a load, over gloo, whatever the backend of their process group."""
