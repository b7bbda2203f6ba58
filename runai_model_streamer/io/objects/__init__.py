"""One object behind HTTP, whichever store has it: opened, and read in ranges of one version."""
