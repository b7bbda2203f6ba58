"""Where the original streamer has them: names that existing code imports from here."""
