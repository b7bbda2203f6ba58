"""Host memory: slabs, page-locked blocks, scratch memory, and the limit on them."""
