"""Where the original streamer has them: names that existing code imports from here."""

from runai_model_streamer.range_streamer import DistributedStreamer

__all__ = ["DistributedStreamer"]
