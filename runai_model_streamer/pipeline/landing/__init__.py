"""Where bytes land, and the tensors made of them."""
