"""The command `tune`, which finds the fastest settings on this machine."""
