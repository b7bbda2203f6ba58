"""The safetensors format: headers, the tensors that they describe, and what other formats look like."""
