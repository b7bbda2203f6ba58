"""`SafetensorsStreamer`: the face of the package."""

import logging
import os
import time
import warnings
from collections.abc import Collection, Generator, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch

from runai_model_streamer.clash import warn_of_original
from runai_model_streamer.config import StreamerConfig
from runai_model_streamer.device import resolve_device
from runai_model_streamer.errors import ArgumentTypeError, StateError, StreamerError
from runai_model_streamer.io.paths import as_path
from runai_model_streamer.io.s3_credentials import S3Credentials
from runai_model_streamer.io.safetensors import TensorInfo
from runai_model_streamer.logs import configure_logging, size_text
from runai_model_streamer.pipeline.cast_plan import CASTABLE
from runai_model_streamer.pipeline.prepare import prepare_load
from runai_model_streamer.pipeline.stream import Load

if TYPE_CHECKING:
    from runai_model_streamer.distributed.sharing import Sharing

_log = logging.getLogger(__name__)


class SafetensorsStreamer:
    """Streams the tensors of safetensors files, from a file system or S3, in file order, as their bytes arrive.

    ```python
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(["model-1.safetensors", "s3://bucket/model-2.safetensors"])
        for name, tensor in streamer.get_tensors():
            ...
    ```

    Settings are read from the environment (`RUNAI_STREAMER_*`) at each `stream_file` or `stream_files`. One load runs
    at a time; a new one ends the one before. A streamer belongs to the process that made it, and its methods to one
    thread at a time.

    A tensor is the caller's for as long as the caller keeps it. Dropping tensors as they come keeps memory within
    `RUNAI_STREAMER_MEMORY_LIMIT` and, since the memory is used again, is the fastest way to load.
    """

    def __init__(self) -> None:
        self._load: Load | None = None
        self._closed = False
        self._pid = os.getpid()
        self._device = torch.device("cpu")
        self._started = 0.0
        self._reports = True
        self.total_size = 0
        """Bytes of all tensors of the current load."""
        self.files_to_tensors_metadata: dict[int, list[TensorInfo]] = {}
        """Index of each file, in the order given -> its tensors, in the order they come; with `.name`, `.shape`,
        `.dtype` (the format's name, such as "BF16") and `.offsets` (`.start`, `.end`, in bytes from the beginning of
        the file's data section)."""

    def __enter__(self) -> Self:
        self._check_usable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except StreamerError as another:
            if error is None:
                raise
            _log.warning("while closing after %s: %s", type(error).__name__, another)

    def stream_file(
        self,
        path: str | os.PathLike[str],
        s3_credentials: S3Credentials | None = None,
        device: str | torch.device = "cpu",
        is_distributed: bool = False,
        tensor_names: Collection[str] | None = None,
        owned: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Start to stream one file; see `stream_files`."""
        if not isinstance(path, str | os.PathLike):
            raise ArgumentTypeError(
                f"stream_file takes one path, not {type(path).__name__}; stream_files takes a list of them"
            )
        self.stream_files([path], s3_credentials, device, is_distributed, tensor_names, owned, dtype)

    def stream_files(
        self,
        paths: Sequence[str | os.PathLike[str]],
        s3_credentials: S3Credentials | None = None,
        device: str | torch.device = "cpu",
        is_distributed: bool = False,
        tensor_names: Collection[str] | None = None,
        owned: bool = True,  # noqa: ARG002 - see the docstring
        dtype: torch.dtype | None = None,
    ) -> None:
        """Start to stream files: read and validate all headers, then begin to read data in the background.

        Args:
            paths: local paths and `s3://bucket/key` URLs, mixed as you like.
            s3_credentials: for object storage, instead of what the environment and boto3's own chain know.
            device: where tensors are to be. On "cuda" ("cuda:1" ...) they are staged in pinned memory and copied while
                others are read; a tensor is ready for what you queue on the stream that is current when you get it.
                It needs the package's [cuda12] or [cuda13] extra. Without that, and on other devices, each tensor is
                copied as it is yielded.
            is_distributed: share the reads with the other ranks of torch's default process group, which all have to
                call this alike: each reads a part and sends it to the others, over gloo, and every rank gets every
                tensor, in the same order. `RUNAI_STREAMER_MEMORY_LIMIT` is then divided by the ranks of a node.
                Without a group of several ranks, or with RUNAI_STREAMER_DIST=0, each process reads all.
            tensor_names: the only tensors to read, from whichever of the files; None for all.
            owned: accepted for compatibility. Both values are safe: a tensor is never overwritten while it is alive.
            dtype: torch.bfloat16, float16 or float32: what tensors of these and of float8_e4m3fn are cast to while
                they are read, as by `tensor.to(dtype)`. All others (integers, bool, float64, complex, other float8)
                keep their dtype. It needs the package's [cast] extra. The memory limit counts tensors as cast, and
                what they are cast from while that is held: half a MiB for each read in flight, from object storage
                `RUNAI_STREAMER_CHUNK_BYTESIZE`. Tensors for other devices are cast on the host, then copied. Those that
                ranks share are cast as they are yielded.

        Raises:
            NotFoundError, AccessDeniedError, ReadError: a file or object cannot be opened.
            HeaderError, UnsupportedDtypeError: a file is not safetensors, or has what torch cannot hold.
            DistributedError: another rank failed, died, left its loop or wants something else; it names the rank.
            RunaiStreamerMemoryLimitException: a tensor is larger than `RUNAI_STREAMER_MEMORY_LIMIT`; on CUDA, where
                the limit bounds the memory to stage in, it is below two pages.
            MissingDependencyError: there is something to cast, and numba is not installed.
            CudaError, GdsUnavailableError: the GPU, or GPUDirect with RUNAI_STREAMER_GDS=1, cannot be used.
            ArgumentError, ArgumentTypeError, ConfigError, StateError: what the message says. Nothing has been read.
        """
        self._check_usable()
        if isinstance(paths, str | bytes | os.PathLike):
            raise ArgumentTypeError(f"stream_files takes a list of paths; for one, call stream_file({paths!r})")
        self._end_load()
        # So that a call that fails does not leave another load's behind.
        self.files_to_tensors_metadata, self.total_size = {}, 0
        config = StreamerConfig.from_environment()
        configure_logging(config)
        warn_of_original()
        self._device = resolve_device(device)
        self._started = time.perf_counter()
        checked = [as_path(path) for path in paths]
        sharing = _join(config, tensor_names) if is_distributed else None
        self._reports = sharing is None or sharing.reports
        # What ranks send each other are the file's bytes.
        self._cast_late = dtype if sharing is not None else None
        try:
            prepared = prepare_load(checked, config, s3_credentials, tensor_names, self._device, dtype, sharing)
        except BaseException:
            if sharing is not None:
                sharing.close()
            raise
        self.files_to_tensors_metadata = prepared.metadata
        self.total_size = prepared.load.total_bytes
        self._load = prepared.load

    def get_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Each tensor with its name, as soon as its bytes are there: in file order, files in the order given.

        An iterator that is dropped before its end ends the load.

        Raises:
            StateError: nothing is being streamed.
            StreamerError: what went wrong in reading; raised by the next `next`, before anything wrong is yielded.
        """
        self._check_usable()
        load = self._load
        if load is None:
            raise StateError("nothing to stream: call stream_file or stream_files first")
        return self._placed(load, load.tensors())

    def _placed(self, load: Load, tensors: Generator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        try:
            if load.device == self._device and self._cast_late is None:
                yield from tensors
            else:
                for name, tensor in tensors:
                    moved = tensor.to(self._device)
                    cast = self._cast_late is not None and moved.dtype in CASTABLE
                    yield name, moved.to(self._cast_late) if cast else moved
        finally:
            # Explicitly: an abandoned iterator ends the load now, not when its frame is collected.
            tensors.close()
        if self._reports:
            self._log_throughput(load.total_bytes)

    def _log_throughput(self, size: int) -> None:
        seconds = time.perf_counter() - self._started
        # Tools parse this line.
        _log.info(
            "[RunAI Streamer] Overall time to stream %s of all files to %s: %.1fs, %s/s",
            size_text(size),
            self._device,
            seconds,
            size_text(size / seconds),
        )

    def close(self) -> None:
        """End the load: stop reading, end the threads, free what the caller does not use. Idempotent.

        A streamer that has been closed cannot stream again.
        """
        self._closed = True
        if self._pid == os.getpid():
            self._end_load()

    def _end_load(self) -> None:
        load, self._load = self._load, None
        if load is not None:
            load.close()

    def _check_usable(self) -> None:
        if self._pid != os.getpid():
            raise StateError("this streamer was made before a fork; its threads are the parent's: make a new one here")
        if self._closed:
            raise StateError("this streamer is closed: make a new one")

    def __del__(self) -> None:
        load = getattr(self, "_load", None)
        if load is not None and load.open and self._pid == os.getpid():
            # Not close: a finaliser may run in any thread, also in one of the load's own.
            # And before the warning, which may be an error.
            load.stop()
            message = f"unclosed {self!r}: use it in a with statement, or call close()"
            warnings.warn(message, ResourceWarning, stacklevel=2, source=self)


def _join(config: StreamerConfig, tensor_names: Collection[str] | None) -> "Sharing | None":
    # Not every torch has torch.distributed.
    from runai_model_streamer.distributed.sharing import join_sharing

    return join_sharing(config, tensor_names)
