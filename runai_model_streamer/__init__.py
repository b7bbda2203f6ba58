"""Streams safetensors checkpoints from a file system or S3 into memory, within a memory limit, tensor by tensor."""

import typing

from runai_model_streamer.errors import RunaiStreamerMemoryLimitException, StreamerError

if typing.TYPE_CHECKING:
    from runai_model_streamer.access.load_file import load_file
    from runai_model_streamer.access.safe_open import safe_open
    from runai_model_streamer.files import list_safetensors, pull_files
    from runai_model_streamer.io.s3.credentials import S3Credentials
    from runai_model_streamer.object_storage_model import ObjectStorageModel
    from runai_model_streamer.pipeline.cuda.arena import release_staging_memory
    from runai_model_streamer.pipeline.plan.ranges import FileChunks
    from runai_model_streamer.pipeline.plan.selection import TensorShard, TensorSlice
    from runai_model_streamer.range_streamer import DistributedStreamer, FileStreamer
    from runai_model_streamer.report.load_report import LoadReport
    from runai_model_streamer.report.progress import Progress
    from runai_model_streamer.settings.streamer_config import StreamerConfig
    from runai_model_streamer.streamer import SafetensorsStreamer
else:
    # The rest comes with its first use: torch takes a second or two, in which Ctrl-C must already find the command's
    # own code at work, and that is in this package too.
    _HOMES = {
        "DistributedStreamer": "range_streamer",
        "FileChunks": "pipeline.plan.ranges",
        "FileStreamer": "range_streamer",
        "LoadReport": "report.load_report",
        "ObjectStorageModel": "object_storage_model",
        "Progress": "report.progress",
        "S3Credentials": "io.s3.credentials",
        "SafetensorsStreamer": "streamer",
        "StreamerConfig": "settings.streamer_config",
        "TensorShard": "pipeline.plan.selection",
        "TensorSlice": "pipeline.plan.selection",
        "list_safetensors": "files",
        "load_file": "access.load_file",
        "pull_files": "files",
        "release_staging_memory": "pipeline.cuda.arena",
        "safe_open": "access.safe_open",
    }

    def __getattr__(name):
        from importlib import import_module

        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
        return found

    def __dir__():
        return sorted({*globals(), *__all__})


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
    "StreamerConfig",
    "StreamerError",
    "TensorShard",
    "TensorSlice",
    "list_safetensors",
    "load_file",
    "pull_files",
    "release_staging_memory",
    "safe_open",
]
