"""`FileStreamer` and `DistributedStreamer`: raw ranges of any file, on the way that tensors go."""

import dataclasses
import operator
import os
from collections.abc import Collection, Iterator, Sequence
from typing import Self

import torch

from runai_model_streamer.base_streamer import Streamer
from runai_model_streamer.config import UNLIMITED, StreamerConfig
from runai_model_streamer.device import resolve_device
from runai_model_streamer.errors import ArgumentError, ArgumentTypeError
from runai_model_streamer.files import open_storage
from runai_model_streamer.io.listing import Patterns
from runai_model_streamer.io.paths import as_path
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.pipeline.landing.tensors import Tensors
from runai_model_streamer.pipeline.plan.limit import LIMIT
from runai_model_streamer.pipeline.plan.ranges import FileChunks
from runai_model_streamer.pipeline.prepare_ranges import prepare_ranges
from runai_model_streamer.report.make import Request
from runai_model_streamer.report.progress import Watch


class RangeStreamer(Streamer):
    """What `FileStreamer` and `DistributedStreamer` share."""

    def __init__(self) -> None:
        super().__init__()
        self._places: list[tuple[int, int]] = []

    def _stream(
        self,
        chunks: Sequence[FileChunks],
        credentials: S3Credentials | None,
        device: str | torch.device | None,
        memory_limit: int | None,
        progress: Watch,
        *,
        is_distributed: bool,
    ) -> None:
        self._places = []
        with self._beginning(is_distributed, progress) as (settings, sharing, tally):
            if isinstance(chunks, str | bytes | FileChunks) or not isinstance(chunks, Sequence):
                raise ArgumentTypeError(f"stream_files takes a list of FileChunks, not {type(chunks).__name__}")
            for each in chunks:
                if not isinstance(each, FileChunks):
                    raise ArgumentTypeError(f"stream_files takes a list of FileChunks; one is {each!r}")
            config, limit_name = _limited(settings, memory_limit)
            self._device = resolve_device(device)
            load = prepare_ranges(chunks, config, credentials, self._device, limit_name, sharing, tally)
            self._places = [(each.id, index) for each in chunks for index in range(len(each.sizes))]
            self._follow(
                load,
                Request(
                    config,
                    str(self._device),
                    files=len(chunks),
                    tensors=len(self._places),
                    bytes=sum(each.total_size() for each in chunks),
                    ranks=1 if sharing is None else sharing.ranks,
                ),
            )

    def get_chunks(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Each range, as soon as its bytes are there: files in the order given, and the ranges of each as given.

        Yields the file's id, the range's index among that file's, and the bytes, of dtype uint8 and shape (1, size).
        An iterator that is dropped before its end ends the load.

        Raises:
            StateError: nothing is being streamed.
            StreamerError: what went wrong in reading; raised by the next `next`, before anything wrong is yielded.
        """
        return _numbered(self._places, self._tensors("stream_files"))


class FileStreamer(RangeStreamer):
    """Streams ranges of bytes of any files, from a file system or S3, in the order given, as they arrive.

    ```python
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks(7, "s3://bucket/index.bin", offsets=[0, 4096], sizes=[100, 512])])
        for file_id, index, tensor in streamer.get_chunks():
            ...
    ```

    Settings, processes, threads and memory are as for `SafetensorsStreamer`: what holds of a tensor there holds of a
    range here.
    """

    def __init__(self) -> None:
        super().__init__()
        self._credentials: S3Credentials | None = None

    def stream_files(
        self,
        file_stream_requests: Sequence[FileChunks],
        credentials: S3Credentials | None = None,
        device: str | torch.device | None = "cpu",
        memory_limit: int | None = None,
        owned: bool = True,  # noqa: ARG002 - see the docstring
        *,
        progress: Watch = False,
    ) -> None:
        """Start to stream ranges: open all files and check all ranges, then begin to read in the background.

        Ranges that follow one another in the file are read together, with the bytes between them where those are few.
        Bytes that lie in two ranges are read twice.

        Args:
            file_stream_requests: the ranges of each file.
            credentials: for object storage, instead of what the environment and boto3's own chain know.
            device: where the bytes are to be; see `SafetensorsStreamer.stream_files`.
            memory_limit: bytes to hold at most, -1 for no limit, 0 for as much as the largest range; None for
                `RUNAI_STREAMER_MEMORY_LIMIT`.
            owned: accepted for compatibility. Both values are safe: a tensor is never overwritten while it is alive.
            progress: see `SafetensorsStreamer.stream_files`; tensors there are ranges here.

        Raises:
            NotFoundError, AccessDeniedError, ReadError: a file or object cannot be opened.
            ArgumentError: a range goes beyond the end of its file; other messages say what else.
            RunaiStreamerMemoryLimitException: a range is larger than the limit.
            CudaError, GdsUnavailableError: the GPU, or GPUDirect with RUNAI_STREAMER_GDS=1, cannot be used.
            ArgumentTypeError, ConfigError, StateError: what the message says. Nothing has been read.
        """
        credentials = credentials or self._credentials
        self._stream(file_stream_requests, credentials, device, memory_limit, progress, is_distributed=False)

    @property
    def streamer(self) -> Self:
        """The streamer itself, where the original has a native handle to pass to `handle_object_store`."""
        return self

    def handle_object_store(self, path: str, streamer: object = None, credentials: S3Credentials | None = None) -> str:  # noqa: ARG002
        """Use these credentials wherever a call gives none; for code written for the original. Returns the path."""
        if credentials is not None:
            self._credentials = credentials
        return path

    def list_files(
        self,
        prefix: str | os.PathLike[str],
        is_recursive: bool = True,
        allow_patterns: Collection[str] | None = None,
        ignore_patterns: Collection[str] | None = None,
        credentials: S3Credentials | None = None,
    ) -> list[tuple[str, int]]:
        """The files in a folder, or under a prefix, with their sizes in bytes; sorted by path. Streams nothing.

        Args:
            prefix: a local folder, or `s3://bucket/prefix`, with or without a slash behind it.
            is_recursive: whether to list folders below it, too.
            allow_patterns: patterns such as `["*.json"]`, one of which a file must match; all files for None, and here
                also for an empty list. They are held against the path that is given back and against the part of it
                from `prefix` on; one that matches either will do. `*` matches slashes too.
            ignore_patterns: patterns, none of which a file may match.
            credentials: as for `stream_files`.

        Raises:
            NotFoundError: no such folder or bucket, or no key under the prefix.
            NotDirectoryError, AccessDeniedError, ReadError: it cannot be listed.
            ArgumentError, ArgumentTypeError, ConfigError, StateError, UnsupportedError: what the message says.
        """
        self._check_usable()
        # An empty list as the original has it here; there, too, pull_files pulls nothing for one.
        folder, patterns = as_path(prefix), Patterns.of(allow_patterns or None, ignore_patterns)
        before = folder if folder.endswith("/") else f"{folder}/"
        with open_storage(credentials or self._credentials) as (storage, _):
            found = storage.entries(folder, lambda name: patterns.chooses(name, before), recursive=is_recursive)
        return [(entry.path, entry.size) for entry in found]


class DistributedStreamer(RangeStreamer):
    """Streams ranges of bytes of any files to all ranks of torch's default process group, each byte read once in all.

    ```python
    with DistributedStreamer() as streamer:  # on every rank alike
        streamer.stream_files([FileChunks(7, "s3://bucket/index.bin", offsets=[0, 4096], sizes=[100, 512])])
        for file_id, index, tensor in streamer.get_chunks():
            ...
    ```

    As `FileStreamer`, of which it has `get_chunks`; how ranks share a load, and how one fails, is as for
    `SafetensorsStreamer.stream_files(..., is_distributed=True)`.
    """

    def stream_files(
        self,
        file_stream_requests: Sequence[FileChunks],
        credentials: S3Credentials | None = None,
        device: str | torch.device | None = "cpu",
        is_distributed: bool = True,
        owned: bool = True,  # noqa: ARG002 - see the docstring
        discover_ranks: bool = True,  # noqa: ARG002 - see the docstring
        *,
        progress: Watch = False,
    ) -> None:
        """Start to stream ranges; see `FileStreamer.stream_files`.

        Args:
            file_stream_requests: the ranges of each file, on every rank the same.
            credentials: as there.
            device: as there.
            is_distributed: False to read all of it in this process.
            owned: as there.
            discover_ranks: accepted for compatibility. Ranks meet where `is_distributed` asks for it, and only there.
            progress: as there.

        Raises:
            DistributedError: another rank failed, died, left its loop or wants something else; it names the rank.
            StreamerError: what is said there; the memory limit is `RUNAI_STREAMER_MEMORY_LIMIT`.
        """
        self._stream(file_stream_requests, credentials, device, None, progress, is_distributed=is_distributed)


def _numbered(places: Sequence[tuple[int, int]], tensors: Tensors) -> Iterator[tuple[int, int, torch.Tensor]]:
    try:
        for file, index in places:
            yield file, index, next(tensors)[1]  # nothing here keeps what is given out
        for _ in tensors:
            raise AssertionError("more has landed than was planned")
    finally:
        tensors.close()


def _limited(config: StreamerConfig, limit: int | None) -> tuple[StreamerConfig, str]:
    """The settings with the call's own limit, if it has one, and what that is called."""
    if limit is None:
        return config, LIMIT
    try:
        found = operator.index(limit)
    except TypeError as error:
        raise ArgumentTypeError(f"memory_limit is a whole number of bytes, not {limit!r}") from error
    if found < UNLIMITED:
        raise ArgumentError(
            f"memory_limit={found}",
            remedy="use a number of bytes, 0 for the largest range, or -1 for no limit",
            sep=": ",
        )
    return dataclasses.replace(config, memory_limit=found), "memory_limit"
