"""Where the original streamer has them: names that existing code imports from here."""

from runai_model_streamer.pipeline.plan.ranges import FileChunks
from runai_model_streamer.range_streamer import FileStreamer

__all__ = ["FileChunks", "FileStreamer"]
