"""`list_safetensors` and `pull_files`: list the files of a model, and copy them to a local disk."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from runai_model_streamer.checkpoint.index import choose_index, compare, is_index, parse_index
from runai_model_streamer.config import CacheConfig, LoadConfig
from runai_model_streamer.errors import NotFoundError, StreamerError
from runai_model_streamer.installation import warn_of_original
from runai_model_streamer.io.listing import Patterns
from runai_model_streamer.io.paths import Several, as_path, divide, is_pattern
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.secret import veiled
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.logs import configure_logging
from runai_model_streamer.mirror.pull import pull
from runai_model_streamer.settings.streamer_config import StreamerConfig
from runai_model_streamer.settings.variables import warn_of_settings

_log = logging.getLogger(__name__)

_LARGEST_INDEX: Final = 256 << 20
"""Bytes. 100,000 tensors take some 10 MB."""

_SHOWN: Final = 5
"""Names in a message."""


@contextmanager
def open_storage(
    credentials: S3Credentials | None, config: StreamerConfig | None = None
) -> Iterator[tuple[Storage, LoadConfig]]:
    """Open storage, with these settings, and otherwise the environment's."""
    settings = LoadConfig.from_environment(given=config)
    configure_logging(settings)
    warn_of_original()
    warn_of_settings()
    if not settings.cache.offline:  # what is pulled stays in a folder already
        settings = replace(settings, cache=CacheConfig())
    storage = Storage(settings, credentials, shared=False)
    try:
        yield storage, settings
    finally:
        storage.close()


def list_safetensors(
    path: str | os.PathLike[str],
    s3_credentials: S3Credentials | None = None,
    *,
    config: StreamerConfig | None = None,
) -> list[str]:
    """List the safetensors files in a folder or under a prefix, for `stream_files`. Subfolders are not searched.

    Args:
        path: a local folder, or `s3://bucket/prefix`. A slash at the end makes no difference. The index of a model
            (`folder/model.safetensors.index.json`) stands for the files that it names, and a pattern
            (`folder/*-of-00002.safetensors`) for those that match it.
        s3_credentials: for object storage, instead of those that boto3 finds.
        config: settings that win over the environment's.

    Returns:
        Sorted paths or URLs, without names that begin with a dot. The list is empty if an existing folder has no such
        file. If the folder has an index (`model.safetensors.index.json`, or the only one of such a name), only the
        files that it names: others, such as `consolidated.safetensors`, have the same tensors once more. A warning in
        the log names what was left out. If a file of the index is missing, a warning says so, and the list has all
        files that are there.

    Raises:
        NotFoundError: there is no such folder or bucket, no key under the prefix, no file that matches the pattern, or
            a link leads to no file.
        NotDirectoryError: the path is a file.
        AccessDeniedError, ReadError: the folder cannot be listed.
        ArgumentError, ArgumentTypeError, ConfigError, UnsupportedError: see the message.
    """
    path = veiled(path)
    model = find_model(path, s3_credentials, config=config)
    if model.missing:
        _log.warning("[RunAI Streamer] %s: %s", as_path(path), model.missing_text)
    if model.left_out:
        _log.warning("[RunAI Streamer] %s: %s", as_path(path), model.left_out_text)
    return model.files


class Model(NamedTuple):
    """The safetensors files of a folder, compared with its index."""

    files: list[str]
    """Paths or URLs of the files to load, sorted."""
    missing: list[str]
    """Names that the index has, and the folder has not."""
    left_out: list[str]
    """Names that the folder has, and its index has not."""
    named_by: str
    """Name of the index; "" if there is none that can be used."""

    @property
    def missing_text(self) -> str:
        """What is wrong with the folder."""
        return f"{self.named_by} names files that are not there: {_some(self.missing)}"

    @property
    def left_out_text(self) -> str:
        """What is in the folder and is not loaded."""
        return (
            f"{self.named_by} does not name {_some(self.left_out)}: left out, for the files that it names are the model"
        )


def find_model(
    path: str | os.PathLike[str],
    s3_credentials: S3Credentials | None = None,
    config: StreamerConfig | None = None,
) -> Model:
    """List a folder, an index or a pattern as `list_safetensors` does, and compare the folder with its index.

    Args:
        path: see `list_safetensors`.
        s3_credentials: for object storage.
        config: settings that win over the environment's.

    Raises:
        NotFoundError: there is no such folder, no such index in it, or no file that matches the pattern.
    """
    path = veiled(path)
    folder = as_path(path)
    if is_pattern(folder):
        return _matching(folder, s3_credentials, config)
    index = None
    if is_index(divide(folder)[1]):
        folder, index = divide(folder)
    with open_storage(s3_credentials, config) as (storage, _):
        found = storage.entries(folder, lambda name: _is_safetensors(name) or is_index(name), recursive=False)
        there = {entry.name: entry.path for entry in found if _is_safetensors(entry.name)}
        indices = {entry.name: entry.path for entry in found if is_index(entry.name)}
        if index is None:
            index = choose_index(indices)
        elif index not in indices:
            raise NotFoundError("no such index", where=f"{folder.rstrip('/')}/{index}")
        named = None
        if index is not None and there:
            try:
                named = parse_index(_read(storage, indices[index]))
            except (StreamerError, ValueError) as error:
                _log.warning("[RunAI Streamer] %s: not used to choose files: %s", indices[index], error)
    shards = compare(named, there)
    return Model([there[name] for name in shards.files], shards.missing, shards.left_out, index or "")


def _matching(path: str, s3_credentials: S3Credentials | None, config: StreamerConfig | None) -> Model:
    folder, pattern = divide(path)
    with open_storage(s3_credentials, config) as (storage, _):
        found = storage.entries(
            folder, lambda name: _is_safetensors(name) and fnmatchcase(name, pattern), recursive=False
        )
    if not found:
        raise NotFoundError("no safetensors file matches this pattern", where=path)
    return Model([entry.path for entry in found], [], [], "")


def _read(storage: Storage, path: str) -> bytes:
    source = storage.open(path)
    try:
        if source.size > _LARGEST_INDEX:
            raise ValueError(f"{source.size} bytes are too many for an index")
        text = bytearray(source.size)
        if text:
            source.read_into(0, memoryview(text))
        return bytes(text)
    finally:
        source.close()


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _is_safetensors(name: str) -> bool:
    return name.endswith(".safetensors") and not name.startswith(".")


def pull_files(
    model_path: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    allow_pattern: Several[str] | None = None,
    ignore_pattern: Several[str] | None = None,
    s3_credentials: S3Credentials | None = None,
    *,
    config: StreamerConfig | None = None,
) -> None:
    """Copy the files of a folder or a prefix, with subfolders, to a local folder. Existing copies are skipped.

    A file appears under its name when all of it is on the disk. A pull that is killed leaves no partial file, and the
    next pull continues. A file counts as there if it has the size and the modification time of the source; for an
    object, the microseconds of the time encode its ETag. Files that the source does not have stay.

    At most `RUNAI_STREAMER_CONCURRENCY` reads of files, or 16 of objects, are in flight, and no more than fit
    into `RUNAI_STREAMER_MEMORY_LIMIT` (0: one read). Two pulls into one folder take turns.

    Args:
        model_path: `s3://bucket/prefix`, or a local folder.
        dst: the folder to copy to. It is created if it does not exist. Links below it are not followed.
        allow_pattern: patterns such as `["*.json"]`. A file must match one. None: all files; []: no files. A pattern
            may match the path below `model_path` or, for an object, its whole key. `*` matches slashes, too.
        ignore_pattern: patterns. A file that matches one is skipped.
        s3_credentials: as for `list_safetensors`.
        config: settings that win over the environment's.

    Raises:
        NotFoundError: there is no such folder or bucket, or no key under the prefix.
        UnsafeNameError: a key cannot be the name of a file in `dst`, such as one with `..`, or two keys would be the
            same file, such as `a/b` and `a//b`. Nothing has been copied.
        WriteError, WriteDeniedError: a file cannot be written, for example because the disk is full.
        SourceChangedError: a file or object was written to during the copy.
        AccessDeniedError, ReadError: a file or object cannot be read.
        ArgumentError, ArgumentTypeError, ConfigError, UnsupportedError: see the message.
    """
    model_path, dst = veiled(model_path), veiled(dst)
    source, target, patterns = as_path(model_path), as_path(dst), Patterns.of(allow_pattern, ignore_pattern)
    with open_storage(s3_credentials, config) as (storage, settings):
        pull(storage, source, target, patterns, settings)
