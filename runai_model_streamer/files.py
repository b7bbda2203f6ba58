"""`list_safetensors` and `pull_files`: which files a model has, and copies of them on a local disk."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from runai_model_streamer.clash import warn_of_original
from runai_model_streamer.config import StreamerConfig
from runai_model_streamer.io.listing import Patterns
from runai_model_streamer.io.paths import as_path
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.logs import configure_logging
from runai_model_streamer.mirror.pull import pull
from runai_model_streamer.variables import warn_of_settings


@contextmanager
def open_storage(credentials: S3Credentials | None) -> Iterator[tuple[Storage, StreamerConfig]]:
    """Object storage and file systems, to list and to read little, with the settings that the environment has now."""
    config = StreamerConfig.from_environment()
    configure_logging(config)
    warn_of_original()
    warn_of_settings()
    storage = Storage(config, credentials, shared=False, few_bytes=True)
    try:
        yield storage, config
    finally:
        storage.close()


def list_safetensors(path: str | os.PathLike[str], s3_credentials: S3Credentials | None = None) -> list[str]:
    """The safetensors files in a folder or under a prefix, but not in folders below it, as `stream_files` takes them.

    Args:
        path: a local folder, or `s3://bucket/prefix`, with or without a slash behind it.
        s3_credentials: for object storage, instead of what the environment and boto3's own chain know.

    Returns:
        Paths or URLs, sorted; none if the folder is there and has no such file. Names that begin with a dot are left
        out.

    Raises:
        NotFoundError: no such folder or bucket; no key under the prefix; a file is a link to nothing.
        NotDirectoryError: the path is a file's.
        AccessDeniedError, ReadError: it cannot be listed.
        ArgumentError, ArgumentTypeError, ConfigError, UnsupportedError: what the message says.
    """
    folder = as_path(path)
    with open_storage(s3_credentials) as (storage, _):
        found = storage.entries(folder, _is_safetensors, recursive=False)
    return [entry.path for entry in found]


def _is_safetensors(name: str) -> bool:
    return name.endswith(".safetensors") and not name.startswith(".")


def pull_files(
    model_path: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    allow_pattern: Collection[str] | None = None,
    ignore_pattern: Collection[str] | None = None,
    s3_credentials: S3Credentials | None = None,
) -> None:
    """Copy files to a local folder, with those in folders below, many at once. What is there already is left alone.

    Each file appears under its name when all of it is on the disk, so that a pull that is killed leaves none that is
    half there, and the next goes on. A file is there already if its size and its time are the source's; of an object,
    the time's microseconds stand for its ETag. Files that the source has not are left alone, too.

    At most `RUNAI_STREAMER_CONCURRENCY` reads of `RUNAI_STREAMER_CHUNK_BYTESIZE` are in flight, as many as fit into
    `RUNAI_STREAMER_MEMORY_LIMIT` (0: one). Two pulls into one folder take turns.

    Args:
        model_path: `s3://bucket/prefix`, or a local folder.
        dst: the folder to copy to, made if it is not there. No link below it is followed.
        allow_pattern: patterns such as `["*.json"]`, one of which a file must match; None for all files, [] for none.
            They are held against the path from `model_path` on and, of an object, against its whole key; one that
            matches either will do. `*` matches slashes too.
        ignore_pattern: patterns, none of which a file may match.
        s3_credentials: as for `list_safetensors`.

    Raises:
        NotFoundError: no such folder or bucket, or no key under the prefix.
        UnsafeNameError: a key cannot be the name of a file in `dst`, such as one with `..`, or two would be the same
            file, such as `a/b` and `a//b`. Nothing has been copied.
        WriteError, WriteDeniedError: a file cannot be written; the disk is full.
        SourceChangedError: a file or object was written to meanwhile.
        AccessDeniedError, ReadError: a file or object cannot be read.
        ArgumentError, ArgumentTypeError, ConfigError, UnsupportedError: what the message says.
    """
    source, target, patterns = as_path(model_path), as_path(dst), Patterns.of(allow_pattern, ignore_pattern)
    with open_storage(s3_credentials) as (storage, config):
        pull(storage, source, target, patterns, config)
