"""For code written for the original streamer; new code imports from `runai_model_streamer`."""

from runai_model_streamer.files import list_safetensors, pull_files
from runai_model_streamer.object_storage_model import ObjectStorageModel
from runai_model_streamer.streamer import SafetensorsStreamer

__all__ = ["ObjectStorageModel", "SafetensorsStreamer", "list_safetensors", "pull_files"]
