"""For code written for the original streamer; new code imports from `runai_model_streamer`."""

from runai_model_streamer.errors import RunaiStreamerMemoryLimitException
from runai_model_streamer.pipeline.plan.ranges import FileChunks

__all__ = ["FileChunks", "RunaiStreamerMemoryLimitException"]
