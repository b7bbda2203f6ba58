"""Streams safetensors checkpoints from a file system or S3 into memory, within a memory limit, tensor by tensor."""

from runai_model_streamer.chunk_streamer import DistributedStreamer, FileStreamer
from runai_model_streamer.errors import RunaiStreamerMemoryLimitException, StreamerError
from runai_model_streamer.files import list_safetensors, pull_files
from runai_model_streamer.io.s3_credentials import S3Credentials
from runai_model_streamer.object_storage_model import ObjectStorageModel
from runai_model_streamer.pipeline.chunks import FileChunks
from runai_model_streamer.pipeline.selection import TensorShard, TensorSlice
from runai_model_streamer.progress import Progress
from runai_model_streamer.report import LoadReport
from runai_model_streamer.streamer import SafetensorsStreamer

__version__ = "0.1.0"

__all__ = [
    "DistributedStreamer",
    "FileChunks",
    "FileStreamer",
    "LoadReport",
    "ObjectStorageModel",
    "Progress",
    "RunaiStreamerMemoryLimitException",
    "S3Credentials",
    "SafetensorsStreamer",
    "StreamerError",
    "TensorShard",
    "TensorSlice",
    "list_safetensors",
    "pull_files",
]
