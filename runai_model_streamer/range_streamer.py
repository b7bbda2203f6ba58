"""`FileStreamer` and `DistributedStreamer`: raw ranges of any file, on the way that tensors go."""

import dataclasses
import operator
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Self, cast

import torch

from runai_model_streamer.base_streamer import Streamer
from runai_model_streamer.config import UNLIMITED, LoadConfig
from runai_model_streamer.errors import ArgumentError, ArgumentTypeError
from runai_model_streamer.files import open_storage
from runai_model_streamer.io.listing import Patterns
from runai_model_streamer.io.paths import Several, as_path
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.secret import veiled
from runai_model_streamer.pipeline.landing.tensors import Tensors
from runai_model_streamer.pipeline.plan.limit import LIMIT
from runai_model_streamer.pipeline.plan.ranges import FileChunks
from runai_model_streamer.pipeline.prepare_ranges import prepare_ranges
from runai_model_streamer.report.make import Request
from runai_model_streamer.report.progress import Watch
from runai_model_streamer.settings.streamer_config import StreamerConfig

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class RangeStreamer(Streamer):
    """What `FileStreamer` and `DistributedStreamer` share."""

    def __init__(self, config: StreamerConfig | None = None) -> None:
        super().__init__(config)
        self._places: list[tuple[int, int]] = []

    def _stream(
        self,
        requests: Sequence[FileChunks],
        credentials: S3Credentials | None,
        device: str | torch.device | None,
        memory_limit: int | None,
        progress: Watch,
        *,
        is_distributed: bool,
        group: "ProcessGroup | None" = None,
    ) -> None:
        self._places = []
        with self._beginning(is_distributed, progress, group) as (settings, sharing, tally):
            if isinstance(requests, str | bytes | FileChunks) or not isinstance(requests, Sequence):
                raise ArgumentTypeError(f"stream_files takes a list of FileChunks, not {type(requests).__name__}")
            for each in requests:
                if not isinstance(each, FileChunks):
                    raise ArgumentTypeError(f"stream_files takes a list of FileChunks; one is {each!r}")
            config, limit_name = _limited(settings, memory_limit)
            self._device = self._parts.resolve_device(device)
            load = prepare_ranges(requests, config, credentials, self._device, limit_name, sharing, tally, self._parts)
            self._places = [(each.id, index) for each in requests for index in range(len(each.sizes))]
            self._follow(
                load,
                Request(
                    config,
                    str(self._device),
                    files=len(requests),
                    tensors=len(self._places),
                    bytes=sum(each.total_size() for each in requests),
                    ranks=1 if sharing is None else sharing.ranks,
                ),
            )

    def get_chunks(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Yield each range as soon as its bytes are there: files in the order given, and the ranges of each as given.

        Yields the file's id, the index of the range among that file's ranges, and the bytes as a tensor of dtype uint8
        and shape (1, size). To drop the iterator before its end ends the load.

        Raises:
            StateError: nothing is being streamed.
            StreamerError: what went wrong while reading. The next `next` raises it, before anything wrong is yielded.
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

    Settings, processes, threads and memory are as for `SafetensorsStreamer`, with ranges in place of tensors.
    """

    def __init__(self, config: StreamerConfig | None = None) -> None:
        super().__init__(config)
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
        """Open all files and check all ranges, then begin to read in the background.

        Ranges that follow one another in the file are read together, with the bytes between them if those are few.
        Bytes in two ranges are read twice.

        Args:
            file_stream_requests: the ranges of each file.
            credentials: for object storage, instead of those of the environment and of boto3's own chain.
            device: where the bytes should be; see `SafetensorsStreamer.stream_files`.
            memory_limit: bytes to hold at most; -1 for no limit; 0 for what the largest range needs; None for
                `RUNAI_STREAMER_MEMORY_LIMIT`.
            owned: accepted for compatibility. Both values are safe: a living tensor is never overwritten.
            progress: see `SafetensorsStreamer.stream_files`, with ranges in place of tensors.

        Raises:
            NotFoundError, AccessDeniedError, ReadError: a file or object cannot be opened.
            ArgumentError: a range goes beyond the end of its file, or what else the message says.
            RunaiStreamerMemoryLimitException: a range is larger than the limit.
            CudaError, GdsUnavailableError: the GPU, or GPUDirect with RUNAI_STREAMER_GDS=1, cannot be used.
            ArgumentTypeError, ConfigError, StateError: what the message says. Nothing has been read.
        """
        file_stream_requests = _veiled(file_stream_requests)
        credentials = credentials or self._credentials
        self._stream(file_stream_requests, credentials, device, memory_limit, progress, is_distributed=False)

    @property
    def streamer(self) -> Self:
        """This streamer. The original has a native handle here, to pass to `handle_object_store`."""
        return self

    def handle_object_store(self, path: str, streamer: object = None, credentials: S3Credentials | None = None) -> str:  # noqa: ARG002
        """Use these credentials in calls that give none, for code written for the original. Returns the path."""
        if credentials is not None:
            self._credentials = credentials
        return path

    def list_files(
        self,
        prefix: str | os.PathLike[str],
        is_recursive: bool = True,
        allow_patterns: Several[str] | None = None,
        ignore_patterns: Several[str] | None = None,
        credentials: S3Credentials | None = None,
    ) -> list[tuple[str, int]]:
        """List the files in a folder, or under a prefix, with their sizes in bytes, sorted by path.

        Args:
            prefix: a local folder, or `s3://bucket/prefix`, with or without a slash at its end.
            is_recursive: whether to list folders below it too.
            allow_patterns: patterns such as `["*.json"]`; a file must match one. None and an empty list allow all.
                A pattern has to match the returned path, or its part from `prefix` on. `*` matches slashes too.
            ignore_patterns: patterns that no file may match.
            credentials: as for `stream_files`.

        Raises:
            NotFoundError: no such folder or bucket, or no key under the prefix.
            NotDirectoryError, AccessDeniedError, ReadError: it cannot be listed.
            ArgumentError, ArgumentTypeError, ConfigError, StateError, UnsupportedError: what the message says.
        """
        self._check_usable()
        # An empty list means here what it does in the original, whose pull_files pulls nothing for one.
        prefix = veiled(prefix)
        folder, patterns = as_path(prefix), Patterns.of(allow_patterns or None, ignore_patterns)
        before = veiled(folder if folder.endswith("/") else f"{folder}/")
        with open_storage(credentials or self._credentials, self._given) as (storage, _):
            found = storage.entries(folder, lambda name: patterns.chooses(name, before), recursive=is_recursive)
        return [(entry.path, entry.size) for entry in found]


class DistributedStreamer(RangeStreamer):
    """Streams ranges of bytes of any files to all ranks of a process group. Each byte is read once.

    ```python
    with DistributedStreamer() as streamer:  # on every rank alike
        streamer.stream_files([FileChunks(7, "s3://bucket/index.bin", offsets=[0, 4096], sizes=[100, 512])])
        for file_id, index, tensor in streamer.get_chunks():
            ...
    ```

    It is used like `FileStreamer`. Ranks share a load, and fail, as with
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
        group: "ProcessGroup | None" = None,
    ) -> None:
        """Start to stream ranges; see `FileStreamer.stream_files`.

        Args:
            file_stream_requests: the ranges of each file, the same on every rank.
            credentials: see `FileStreamer.stream_files`.
            device: see `FileStreamer.stream_files`.
            is_distributed: False to read everything in this process.
            owned: see `FileStreamer.stream_files`.
            discover_ranks: accepted for compatibility. Ranks meet if `is_distributed`, and only then.
            progress: see `FileStreamer.stream_files`.
            group: the process group whose ranks share the load; None for torch's default group.

        Raises:
            DistributedError: another rank failed, died, left its loop or wants something else; it names the rank.
            StreamerError: as `FileStreamer.stream_files`. The memory limit is `RUNAI_STREAMER_MEMORY_LIMIT`.
        """
        file_stream_requests = _veiled(file_stream_requests)
        self._stream(
            file_stream_requests, credentials, device, None, progress, is_distributed=is_distributed, group=group
        )


def _veiled(requests: Sequence[FileChunks]) -> Sequence[FileChunks]:
    """Return what the caller gave. If it is URLs, their `repr` shows no secret."""
    shown = [veiled(each) for each in requests] if isinstance(requests, list | tuple) else veiled(requests)
    return cast("Sequence[FileChunks]", shown)


def _numbered(places: Sequence[tuple[int, int]], tensors: Tensors) -> Iterator[tuple[int, int, torch.Tensor]]:
    try:
        for file, index in places:
            yield file, index, next(tensors)[1]  # keeps no reference to the tensor
        for _ in tensors:
            raise AssertionError("more has landed than was planned")
    finally:
        tensors.close()


def _limited(config: LoadConfig, limit: int | None) -> tuple[LoadConfig, str]:
    """Return the settings with the call's own limit, if it has one, and the name of the limit."""
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
