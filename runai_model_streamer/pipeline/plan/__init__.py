"""Plans what to read, in which order and pieces: pure functions, without I/O and threads."""
