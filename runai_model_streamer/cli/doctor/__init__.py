"""The command `doctor`: what this machine and its storage can do, and what to change."""
