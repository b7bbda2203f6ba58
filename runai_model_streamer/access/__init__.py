"""One file at a time, as the library safetensors gives it: a dict of all tensors, or each tensor by its name."""
