"""Where the original streamer has them: names that existing code imports from here."""

from runai_model_streamer.chunk_streamer import FileStreamer
from runai_model_streamer.pipeline.chunks import FileChunks

__all__ = ["FileChunks", "FileStreamer"]
