"""`safe_open`: the tensors of a file by their names."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

import torch

from runai_model_streamer.access.slices import cut_of
from runai_model_streamer.checkpoint.header import read_header
from runai_model_streamer.checkpoint.tensor_info import DTYPE_BITS, TensorInfo
from runai_model_streamer.config import LoadConfig
from runai_model_streamer.device import resolve_device
from runai_model_streamer.errors import ArgumentError, ReadError, SourceChangedError, StateError
from runai_model_streamer.io.paths import as_path
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.secret import veiled
from runai_model_streamer.io.source import Source
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.logs import configure_logging
from runai_model_streamer.pipeline.landing.tensors import check_dtypes, tensor_of
from runai_model_streamer.pipeline.plan.groups import MAX_GAP
from runai_model_streamer.pipeline.plan.selection import Selected, TensorSlice, select_part
from runai_model_streamer.pipeline.prepare import FileReads, make_load, opening
from runai_model_streamer.settings.streamer_config import StreamerConfig
from runai_model_streamer.threads.forks import OwnProcess

_log: Final = logging.getLogger(__name__)

_FRAMEWORKS: Final = ("pt", "torch", "pytorch")


class safe_open:  # noqa: N801 - the name that users know
    """An open safetensors file, as `safetensors.safe_open` gives it. Only what is asked for is read.

    ```python
    with safe_open("s3://bucket/model.safetensors", framework="pt") as file:
        weight = file.get_tensor("lm_head.weight")
        rows = file.get_slice("embed.weight")[:1000]
    ```

    Each call reads at once, and returns when the tensor is there. For all tensors `load_file` is faster, and
    `SafetensorsStreamer` overlaps the reads with what the caller does. One thread at a time may use a file.

    Args:
        filename: a local path or an `s3://bucket/key` URL.
        framework: "pt": torch.
        device: where tensors should be.
        s3_credentials: for object storage, instead of those that boto3 finds.
        config: settings that win over the environment's.

    Raises:
        StreamerError: the file cannot be opened, or is not in the format.
    """

    def __init__(
        self,
        filename: str | os.PathLike[str],
        framework: str = "pt",
        device: str | torch.device = "cpu",
        *,
        s3_credentials: S3Credentials | None = None,
        config: StreamerConfig | None = None,
    ) -> None:
        if framework not in _FRAMEWORKS:
            raise ArgumentError(f"tensors of {framework!r} are not made", remedy='use framework="pt" (torch)')
        filename = veiled(filename)
        self._path = as_path(filename)
        self._device = resolve_device(device)
        self._credentials = s3_credentials
        settings = LoadConfig.from_environment(given=config)
        configure_logging(settings)
        if settings.verify:
            _log.warning("RUNAI_STREAMER_VERIFY: %s is not verified: a checksum is one of the whole object", self._path)
        self._config = replace(settings, verify=False)
        self._process = OwnProcess()
        storage = Storage(self._config, s3_credentials, shared=False)
        try:
            source = storage.open(self._path)
            try:
                self._header = read_header(source)
            except BaseException:
                source.close()
                raise
        except BaseException:
            storage.close()
            raise
        self._tensors = {tensor.name: tensor for tensor in self._header.tensors}
        self._storage: Storage | None = storage
        self._source = source

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_storage", None) is not None:
            self.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def keys(self) -> list[str]:
        """Return the names of all tensors, sorted."""
        return sorted(self._tensors)

    def offset_keys(self) -> list[str]:
        """Return the names of all tensors in file order, the fastest order to read them in."""
        return list(self._tensors)

    def metadata(self) -> dict[str, str] | None:
        """Return the header's `__metadata__`; None if it has none."""
        return dict(self._header.metadata) or None

    def get_tensor(self, name: str) -> torch.Tensor:
        """Read a tensor. It is the caller's.

        Raises:
            ArgumentError: the file has no tensor of this name.
            UnsupportedDtypeError: the installed torch has no dtype for it.
            ReadError: it could not be read, or the file was written to since it was opened.
            StateError: the file is closed.
        """
        return self._read(self._info(name), None)

    def get_tensors(self) -> dict[str, torch.Tensor]:
        """Read all tensors, in file order, many ranges at once.

        Raises:
            StreamerError: as `get_tensor`.
        """
        self._check_open()
        check_dtypes(self._path, self._header.tensors)
        return self._load(self._header.tensors, None)

    def get_slice(self, name: str) -> "Slice":
        """Return a tensor that is read by indexing: `get_slice(name)[2:4]` reads two rows.

        Raises:
            ArgumentError: the file has no tensor of this name.
        """
        return Slice(self, self._info(name))

    def close(self) -> None:
        """Close the file. Idempotent."""
        storage, self._storage = self._storage, None
        if storage is not None and not self._process.forked:
            self._source.close()
            storage.close()

    def _info(self, name: str) -> TensorInfo:
        try:
            return self._tensors[name]
        except KeyError:
            raise ArgumentError(
                f"has no tensor {name!r}", where=self._path, remedy="keys() lists the names", tensor=name
            ) from None

    def _read(self, info: TensorInfo, part: TensorSlice | None) -> torch.Tensor:
        self._check_open()
        check_dtypes(self._path, [info])
        selected = select_part(self._path, info, True if part is None else part, MAX_GAP[self._source.kind])
        if selected.info.nbytes <= self._config.chunk_for(self._source.kind) and selected.rows is None:
            return self._read_here(selected.info)
        return self._load(selected.reads, [selected])[info.name]

    def _read_here(self, info: TensorInfo) -> torch.Tensor:
        """Read what one request brings, in this thread."""
        with torch.inference_mode(False), torch.no_grad():
            landed = torch.empty(info.nbytes, dtype=torch.uint8)
        if info.nbytes:
            array: Any = landed.numpy()
            try:
                self._source.read_into(info.start, memoryview(array))
            except ReadError as error:
                error.while_reading([info.name])
                raise
        return self._placed(tensor_of(info, landed))

    def _load(self, reads: Sequence[TensorInfo], parts: Sequence[Selected] | None) -> dict[str, torch.Tensor]:
        """Read with the pipeline of a load, many ranges at once."""
        with opening(self._config, self._credentials) as (storage, close_with):
            source = storage.open_known(self._path, self._source.size, self._source.version)
            close_with.append(source)
            self._check_same(source)
            file = FileReads(self._path, source, reads)
            load = make_load(storage, [file], self._config, self._device, parts=parts)
        try:
            load.start()
            return {name: self._placed(tensor) for name, tensor in load.tensors()}
        finally:
            load.close()

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        # Made in the caller's inference mode, it could never be trained.
        with torch.inference_mode(False), torch.no_grad():
            return tensor.to(self._device)

    def _check_open(self) -> None:
        if self._storage is None or self._process.forked:
            raise StateError(f"{self._path} is closed, or was opened before a fork", remedy="open it again")

    def _check_same(self, source: Source) -> None:
        if (source.size, source.version) != (self._source.size, self._source.version):
            raise SourceChangedError("was written to since it was opened", where=self._path, remedy="open it again")


class Slice:
    """A tensor of a file that is read by indexing it. `safe_open.get_slice` returns it."""

    def __init__(self, file: safe_open, info: TensorInfo) -> None:
        self._file = file
        self._info = info

    def get_shape(self) -> list[int]:
        """Return the shape of the whole tensor."""
        return list(self._info.shape)

    def get_dtype(self) -> str:
        """Return the format's name of the dtype, such as "BF16"."""
        return self._info.dtype

    def __getitem__(self, index: object) -> torch.Tensor:
        """Read a part. The index has whole numbers, slices with a positive step, and at most one ellipsis.

        The part is contiguous, in memory of its own, and the caller's.

        Raises:
            ArgumentError, ArgumentTypeError: the index does not fit the tensor.
            StreamerError: as `safe_open.get_tensor`.
        """
        name, bits = self._info.name, DTYPE_BITS[self._info.dtype]
        if bits < 8:
            raise ArgumentError(
                f"tensor {name!r}: torch packs several numbers of {self._info.dtype} in an element",
                remedy=f"index the whole tensor, get_tensor({name!r})[...]",
                tensor=name,
            )
        cut = cut_of(name, self._info.shape, index)
        part = self._file._read(self._info, cut.part)  # noqa: SLF001 - they are one
        # Made in the caller's inference mode, it could never be trained.
        with torch.inference_mode(False), torch.no_grad():
            wanted = part[cut.rest]
            if wanted.numel() < part.numel():
                return wanted.clone(memory_format=torch.contiguous_format)
            # All of it. A view of `part` could not be changed in place by what needs a gradient.
            return part.new_empty(0).set_(part.untyped_storage(), part.storage_offset(), wanted.shape)  # type: ignore[call-overload,no-any-return]  # strides may be left out
