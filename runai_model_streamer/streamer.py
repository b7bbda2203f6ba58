"""`SafetensorsStreamer`: the face of the package."""

import logging
import os
from collections.abc import Collection, Iterator, Sequence

import torch

from runai_model_streamer.base_streamer import Streamer
from runai_model_streamer.checkpoint.tensor_info import TensorInfo
from runai_model_streamer.device import resolve_device
from runai_model_streamer.errors import ArgumentTypeError
from runai_model_streamer.io.paths import as_path
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.pipeline.plan.selection import Select
from runai_model_streamer.pipeline.prepare import prepare_load
from runai_model_streamer.report.make import Request
from runai_model_streamer.report.progress import Watch

_log = logging.getLogger(__name__)


class SafetensorsStreamer(Streamer):
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
        super().__init__()
        self.files_to_tensors_metadata: dict[int, list[TensorInfo]] = {}
        """Index of each file, in the order given -> its tensors, in the order they come; with `.name`, `.shape`,
        `.dtype` (the format's name, such as "BF16") and `.offsets` (`.start`, `.end`, in bytes from the beginning of
        the file's data section). Of a part that was selected they are the part's; of one that lies in pieces,
        `.offsets` are where the first begins, and as far behind it as they are long."""

    def stream_file(
        self,
        path: str | os.PathLike[str],
        s3_credentials: S3Credentials | None = None,
        device: str | torch.device | None = "cpu",
        is_distributed: bool = False,
        tensor_names: Collection[str] | None = None,
        owned: bool = True,
        dtype: torch.dtype | None = None,
        select: Select | None = None,
        *,
        progress: Watch = False,
    ) -> None:
        """Start to stream one file; see `stream_files`."""
        self.stream_files(
            [path], s3_credentials, device, is_distributed, tensor_names, owned, dtype, select, progress=progress
        )

    def stream_files(
        self,
        paths: Sequence[str | os.PathLike[str]],
        s3_credentials: S3Credentials | None = None,
        device: str | torch.device | None = "cpu",
        is_distributed: bool = False,
        tensor_names: Collection[str] | None = None,
        owned: bool = True,  # noqa: ARG002 - see the docstring
        dtype: torch.dtype | None = None,
        select: Select | None = None,
        *,
        progress: Watch = False,
    ) -> None:
        """Start to stream files: read and validate all headers, then begin to read data in the background.

        Args:
            paths: local paths and `s3://bucket/key` URLs, mixed as you like.
            s3_credentials: for object storage, instead of what the environment and boto3's own chain know.
            device: where tensors are to be; None is "cpu". On "cuda" ("cuda:1" ...) they are staged in pinned memory
                and copied while others are read; a tensor is ready for what you queue on the stream that is current
                when you get it. It needs the package's [cuda12] or [cuda13] extra. Without that, and on other devices,
                each tensor is copied as it is yielded. On "cpu", where CUDA is initialised already, they are in
                page-locked memory, up to a bound (RUNAI_STREAMER_PINNED), and those of a group, tens of MiB, then share
                a storage.
            is_distributed: share the reads with the other ranks of torch's default process group, which all have to
                call this alike: each reads a part and sends it to the others, over gloo, and every rank gets every
                tensor, in the same order. `RUNAI_STREAMER_MEMORY_LIMIT` is then divided by the ranks of a node.
                Ranks whose `select` asks for the same share what they read; one that asks for what no other does
                shares the headers alone. A rank whose call fails makes the others fail, with its number and reason.
                Without a group of several ranks, or with RUNAI_STREAMER_DIST=0, each process reads all.
            tensor_names: the only tensors to read, from whichever of the files; None for all.
            owned: accepted for compatibility. Both values are safe: a tensor is never overwritten while it is alive.
            dtype: torch.bfloat16, float16 or float32: what tensors of these and of float8_e4m3fn are cast to while
                they are read, as by `tensor.to(dtype)`. All others (integers, bool, float64, complex, other float8)
                keep their dtype. It needs the package's [cast] extra. The memory limit counts tensors as cast, and
                what they are cast from while that is held: half a MiB for each read in flight, from object storage
                `RUNAI_STREAMER_CHUNK_BYTESIZE`. Onto CUDA they are cast on the GPU, which for a while holds what they
                are cast from; without numba-cuda, and for other devices, on the host, and then copied.
            select: a rank's own part: a function or a mapping from the name of a tensor to the part wanted of it, a
                `TensorSlice(dim, start, stop)` (or such a tuple) or a `TensorShard(dim, rank, world_size)`; to True
                for all of it; to False or None for nothing. A tensor that a mapping does not name is wanted whole.
                With `tensor_names`, it is asked for those only. A part is contiguous, in memory of its own. One along
                the first dimension, or along another where those before it have size 1, costs its own bytes and lands
                in place. Any other lies in pieces, which are read each on its own where more than 64 KiB of a file, or
                1 MiB of an object, lie between two of them; else all bytes from the first piece to the last are read.
                They are put together as the part is yielded, on its device; the memory limit counts what is read at
                once of a tensor and, beside it, the largest part that is made so.
            progress: True for a bar, on stderr if that is a terminal (its figures alone without rich, of the package's
                [cli] extra), or in a notebook; elsewhere it is silent. Or a function, which is called with a `Progress`
                in the caller's thread: whenever all tensors of a group (tens of MiB of neighbours) have been given out,
                and once at the end. What it raises ends the load.

        Raises:
            NotFoundError, AccessDeniedError, ReadError: a file or object cannot be opened.
            HeaderError, UnsupportedDtypeError: a file is not safetensors, or has what torch cannot hold.
            DistributedError: another rank failed, died, left its loop or wants something else; it names the rank.
            RunaiStreamerMemoryLimitException: a tensor is larger than `RUNAI_STREAMER_MEMORY_LIMIT`; on CUDA, where
                the limit bounds the memory to stage in, it is below two pages.
            MissingDependencyError: there is something to cast, and numba is not installed.
            CudaError, GdsUnavailableError: the GPU, or GPUDirect with RUNAI_STREAMER_GDS=1, cannot be used.
            PinnedUnavailableError: RUNAI_STREAMER_PINNED=1, and torch cannot page-lock memory.
            ArgumentError, ArgumentTypeError, ConfigError, StateError: what the message says, such as a part that a
                tensor does not have. Nothing has been read.
        """
        self.files_to_tensors_metadata = {}  # so that a call that fails does not leave another load's behind
        with self._beginning(is_distributed, progress) as (config, sharing, tally):
            if isinstance(paths, str | bytes | os.PathLike):
                raise ArgumentTypeError(
                    "stream_files takes a list of paths", remedy=f"for one, call stream_file({paths!r})"
                )
            self._device = resolve_device(device)
            checked = [as_path(path) for path in paths]
            if not checked:  # perhaps of a folder that has none: a model would keep the weights that it was made with
                _log.warning("[RunAI Streamer] stream_files was given no file: no tensor will come")
            prepared = prepare_load(
                checked, config, s3_credentials, tensor_names, self._device, dtype, select, sharing, tally
            )
            self.files_to_tensors_metadata = prepared.metadata
            self._follow(
                prepared.load,
                Request(
                    config,
                    str(self._device),
                    files=len(checked),
                    tensors=sum(map(len, prepared.metadata.values())),
                    bytes=prepared.size,
                    dtype=None if dtype is None else str(dtype),
                    ranks=1 if sharing is None else sharing.ranks,
                ),
            )

    def get_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Each tensor with its name, as soon as its bytes are there: in file order, files in the order given.

        An iterator that is dropped before its end ends the load.

        Raises:
            StateError: nothing is being streamed.
            StreamerError: what went wrong in reading; raised by the next `next`, before anything wrong is yielded.
        """
        return self._tensors("stream_file or stream_files")
