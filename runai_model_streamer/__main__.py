"""Runs the command as `python -m runai_model_streamer`, where it is not on the PATH."""

import sys

from runai_model_streamer.cli.main import main

sys.exit(main())
