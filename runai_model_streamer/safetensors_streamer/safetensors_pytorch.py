"""For code written for the original streamer, which reads headers here; vLLM does since 0.33."""

import os
from collections.abc import Sequence

from runai_model_streamer.checkpoint.tensor_info import TensorInfo
from runai_model_streamer.files import open_storage
from runai_model_streamer.io.paths import as_path
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.opening import open_files

__all__ = ["prepare_request"]


def prepare_request(
    fs: object,  # noqa: ARG001 - see the docstring
    paths: Sequence[str | os.PathLike[str]],
    s3_credentials: S3Credentials | None = None,
    discover_ranks: bool = True,  # noqa: ARG001 - see the docstring
) -> list[tuple[int, list[TensorInfo], list[int]]]:
    """Read and validate the headers of safetensors files. No tensor is read, and no other rank is asked.

    Args:
        fs: the streamer that the original reads with. What it streams now goes on.
        paths: local paths and `s3://bucket/key` URLs.
        s3_credentials: for object storage, instead of what the environment and boto3's own chain know.
        discover_ranks: accepted for compatibility.

    Returns:
        For each path, the byte where its data section starts, its tensors in file order, and the bytes of each.

    Raises:
        NotFoundError, AccessDeniedError, ReadError: a file or object cannot be read.
        HeaderError: a file is not safetensors.
        ArgumentError, ArgumentTypeError, ConfigError, UnsupportedError: what the message says.
    """
    checked = [as_path(path) for path in paths]
    with open_storage(s3_credentials) as (storage, config):
        opened = open_files(storage, checked, config.concurrency_for(SourceKind.OBJECT))
        for source, _ in opened:
            source.close()
    return [
        (header.data_start, list(header.tensors), [tensor.nbytes for tensor in header.tensors]) for _, header in opened
    ]
