"""Kernels that numba compiles: casts while tensors land on the host.

`host.cast(source, target)` casts consecutive elements of one floating-point dtype to another. The source may start at
any byte. The target starts at a multiple of its element's size. They do not overlap. `bits` defines which casts there
are, and their results.

Every module but `bits` imports numba, which takes a third of a second. They are imported when they are needed.
"""
