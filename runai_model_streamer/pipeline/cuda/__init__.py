"""Lands tensors on a GPU, through page-locked slots and a copy stream, or by GPUDirect Storage."""
