"""The command `doctor`, which checks this machine and its storage, and says what to change."""
