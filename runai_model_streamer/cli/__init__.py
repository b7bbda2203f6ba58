"""The command `runai-streamer`, with one module for each subcommand, on top of the package's public API."""
