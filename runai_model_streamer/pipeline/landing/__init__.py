"""Lands bytes in memory, and makes tensors of them."""
