"""The safetensors format: reads headers and indices, and recognises other formats."""
