"""For code written for the original streamer; new code imports from `runai_model_streamer`."""

# There an unknown device is one, and so are files of several kinds of storage in one call, which are none here.
from runai_model_streamer.errors import ArgumentError as RunaiStreamerInvalidInputException
from runai_model_streamer.range_streamer import FileStreamer

__all__ = ["FileStreamer", "RunaiStreamerInvalidInputException"]
