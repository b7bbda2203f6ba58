"""How fast loading is, against peers and against the machine's own limits."""
