"""For code written for the original streamer; new code imports from `runai_model_streamer.testing`."""

from runai_model_streamer.testing import StreamerPatcher

__all__ = ["StreamerPatcher"]
