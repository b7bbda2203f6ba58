"""The command `runai-streamer`: one module for each subcommand, on the package's public face."""
