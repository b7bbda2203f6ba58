"""The command `tune`: finds the settings that load fastest on this machine."""
