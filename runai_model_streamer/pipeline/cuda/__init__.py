"""Landing on a GPU: page-locked slots, a copy stream, device memory."""
