"""Local files: loaders and the machine's limits, in turns."""
