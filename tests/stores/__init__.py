"""Real stores: what is claimed of S3-compatible storage, run on some. `make test-stores` starts them."""
