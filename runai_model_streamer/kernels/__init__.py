"""Code compiled by numba, that runs without the GIL. numba is imported with each module here, not with the package."""
