"""`SafetensorsStreamer`, which streams the tensors of safetensors files."""

import functools
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import torch

from runai_model_streamer.base_streamer import Streamer
from runai_model_streamer.checkpoint.tensor_info import TensorInfo
from runai_model_streamer.errors import ArgumentError, ArgumentTypeError
from runai_model_streamer.io.paths import Ordered, Several, as_path
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.secret import veiled, without_queries
from runai_model_streamer.pipeline.landing.into import Into, device_of
from runai_model_streamer.pipeline.plan.selection import Select
from runai_model_streamer.pipeline.prepare import prepare_load
from runai_model_streamer.report.make import Request
from runai_model_streamer.report.progress import Watch
from runai_model_streamer.settings.streamer_config import StreamerConfig

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_log = logging.getLogger(__name__)


class SafetensorsStreamer(Streamer):
    """Streams the tensors of safetensors files, from a file system or object storage, as their bytes arrive.

    ```python
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(["model-1.safetensors", "s3://bucket/model-2.safetensors"])
        for name, tensor in streamer.get_tensors():
            ...
    ```

    Files come in the order given, and tensors in file order. `stream_file` and `stream_files` read the settings from
    the environment (`RUNAI_STREAMER_*`). A streamer runs one load at a time: a new load ends the one before. It belongs
    to the process that made it, and only one thread at a time may call its methods.

    Args:
        config: settings of this streamer alone, which win over the environment's:
            `SafetensorsStreamer(config=StreamerConfig(memory_limit="4GiB"))`.

    A tensor is the caller's for as long as the caller keeps it. A caller that drops tensors as they arrive stays within
    `RUNAI_STREAMER_MEMORY_LIMIT`, and loads fastest: the streamer reuses their memory.
    """

    def __init__(self, config: StreamerConfig | None = None) -> None:
        super().__init__(config)
        self.files_to_tensors_metadata: dict[int, list[TensorInfo]] = {}
        """Index of each file, in the order given -> its tensors, in the order in which they come. Each has `.name`,
        `.shape`, `.dtype` (the format's name, such as "BF16") and `.offsets` (`.start` and `.end`, in bytes from the
        start of the file's data section). For a selected part these describe the part. For a part in pieces, `.offsets`
        start where its first piece does, and span as many bytes as the pieces have."""

    def stream_file(
        self,
        path: str | os.PathLike[str],
        s3_credentials: S3Credentials | None = None,
        device: str | torch.device | None = "cpu",
        is_distributed: bool = False,
        tensor_names: Several[str] | None = None,
        owned: bool = True,
        dtype: torch.dtype | None = None,
        select: Select | None = None,
        *,
        progress: Watch = False,
        group: "ProcessGroup | None" = None,
        into: Into | None = None,
    ) -> None:
        """Start to stream one file; see `stream_files`."""
        path = veiled(path)
        self.stream_files(
            [path],
            s3_credentials,
            device,
            is_distributed,
            tensor_names,
            owned,
            dtype,
            select,
            progress=progress,
            group=group,
            into=into,
        )

    def stream_files(
        self,
        paths: Ordered[str | os.PathLike[str]],
        s3_credentials: S3Credentials | None = None,
        device: str | torch.device | None = "cpu",
        is_distributed: bool = False,
        tensor_names: Several[str] | None = None,
        owned: bool = True,  # noqa: ARG002 - see the docstring
        dtype: torch.dtype | None = None,
        select: Select | None = None,
        *,
        progress: Watch = False,
        group: "ProcessGroup | None" = None,
        into: Into | None = None,
    ) -> None:
        """Read and validate all headers, then begin to read data in the background. See docs/usage.md.

        Args:
            paths: local paths and URLs (`s3://bucket/key`, `gs://`, `az://`, `https://`, `hf://`), also mixed.
            s3_credentials: for object storage, instead of those of the environment and of boto3's own chain.
            device: where tensors should be; None is "cpu". On CUDA a tensor is ready for work that is queued on the
                current stream (docs/gpu.md). On other devices each tensor is copied as it is yielded.
            is_distributed: share the reads with the other ranks of `group`, which all call this (docs/processes.md).
            tensor_names: the only tensors to read, from any of the files; None for all.
            owned: accepted for compatibility. Both values are safe: a living tensor is never overwritten.
            dtype: torch.bfloat16, float16 or float32. Tensors of these dtypes and of float8_e4m3fn are cast to it while
                they are read. Needs the extra [cast].
            select: the part of each tensor that is wanted: a function or a mapping from its name to a `TensorSlice`, a
                tuple `(dim, start, stop)`, a `TensorShard`, True (all of it), or False or None (nothing). A tensor that
                a mapping does not name is wanted whole. A part is contiguous, in memory of its own.
            progress: True for a bar on a terminal or in a notebook. Or a function that is called with a `Progress` in
                the caller's thread, after each group of tensors and at the end. What it raises ends the load.
            group: with `is_distributed`, the process group whose ranks share the load, of any backend. No other rank
                takes part. None for torch's default group.
            into: tensors that exist and get the values, by name, such as a model's parameters: all on one device, where
                the load goes. `get_tensors` yields each when it is filled. Names, shapes and dtypes are checked before
                anything is changed. A tensor is filled whole or not at all; where a load fails, a note on the error
                says how far it came.

        Raises:
            StreamerError: docs/troubleshooting.md lists the errors, each with the built-in that it also is. Nothing is
                left open. A memory limit that is too low raises `RunaiStreamerMemoryLimitException`, which names the
                tensor.
        """
        self.files_to_tensors_metadata = {}  # so that a call that fails does not leave another load's behind
        with self._beginning(is_distributed, progress, group) as (config, sharing, tally):
            if isinstance(paths, str | bytes | os.PathLike):
                paths = cast("Any", veiled(paths))
                shown = without_queries(repr(paths))
                raise ArgumentTypeError(
                    "stream_files takes a list of paths", remedy=f"for one, call stream_file({shown})"
                )
            paths = [veiled(path) for path in paths]
            self._device = self._parts.resolve_device(device)
            if into is not None:
                self._device = _where_they_are(into, self._device)
            if self._device.type == "cpu" and torch.cuda.is_initialized():
                _tell_of_the_gpu()
            checked = [as_path(path) for path in paths]
            if not checked:  # The folder may have none; then a model would keep its initial weights.
                _log.warning("[RunAI Streamer] stream_files was given no file: no tensor will come")
            prepared = prepare_load(
                checked,
                config,
                s3_credentials,
                tensor_names,
                self._device,
                dtype,
                select,
                sharing,
                tally,
                self._parts,
                into,
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
        """Yield each tensor with its name, as soon as its bytes are there: in file order, files in the order given.

        To drop the iterator before its end ends the load.

        Raises:
            StateError: nothing is being streamed.
            StreamerError: what went wrong while reading. The next `next` raises it, before anything wrong is yielded.
        """
        return self._tensors("stream_file or stream_files")


def _where_they_are(into: Into, asked: torch.device) -> torch.device:
    found = device_of(into)
    if asked not in {found, torch.device("cpu")}:
        raise ArgumentError(
            f"the tensors of into are on {found}, and device is {asked}",
            remedy="leave device out: the load goes to into",
        )
    return found


@functools.cache
def _tell_of_the_gpu() -> None:
    # Once in a process.
    _log.info(
        "[RunAI Streamer] This process uses CUDA, and loads into host memory. device='cuda' loads onto the GPU; in "
        "vLLM and SGLang --model-loader-extra-config '{\"distributed\": true}' does so, also with one GPU"
    )
