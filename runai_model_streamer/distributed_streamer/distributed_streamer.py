"""For code written for the original streamer; new code imports from `runai_model_streamer`."""

from runai_model_streamer.range_streamer import DistributedStreamer

__all__ = ["DistributedStreamer"]
