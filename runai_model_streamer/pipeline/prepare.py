"""From paths to a running load: opens, selects and checks everything before a byte of data is read."""

import logging
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple, Protocol

import torch

from runai_model_streamer.config import UNLIMITED, StreamerConfig
from runai_model_streamer.errors import ArgumentError, ArgumentTypeError, RunaiStreamerMemoryLimitException
from runai_model_streamer.io.checksums import VerifiedSource
from runai_model_streamer.io.paths import Storage
from runai_model_streamer.io.s3_credentials import S3Credentials
from runai_model_streamer.io.safetensors import TensorInfo
from runai_model_streamer.io.source import Source, SourceKind
from runai_model_streamer.pipeline.cast_plan import held, plan_cast, scratch_size, sources_of, target_name
from runai_model_streamer.pipeline.casting import cast_destination
from runai_model_streamer.pipeline.cuda_load import cuda_load
from runai_model_streamer.pipeline.opening import Opened, open_files
from runai_model_streamer.pipeline.plan import PlannedFile, largest_tensor
from runai_model_streamer.pipeline.stream import Load
from runai_model_streamer.pipeline.tensors import check_dtypes

_log = logging.getLogger(__name__)

HOST: Final = torch.device("cpu")


class PreparedLoad(NamedTuple):
    """A load that has started to read."""

    load: Load
    metadata: dict[int, list[TensorInfo]]
    """Index of each file -> its tensors, in the order they come."""


class Divided(NamedTuple):
    """What a load that is shared reads, and how."""

    files: Sequence[PlannedFile]
    sources: Sequence[Source]
    limit: int
    concurrency: int


class Sharing(Protocol):
    """Other processes that read parts of the same load; see `distributed.sharing.Sharing`."""

    @property
    def ranks_of_node(self) -> int:
        """Processes that share the memory limit."""
        ...

    def storage(self, config: StreamerConfig, credentials: S3Credentials | None) -> Storage:
        """What files are opened from."""
        ...

    def open_files(self, storage: Storage, paths: Sequence[str], concurrency: int) -> list[Opened]:
        """See `pipeline.opening.open_files`."""
        ...

    def divide(
        self, files: Sequence[PlannedFile], sources: Sequence[Source], limit: int | None, concurrency: int
    ) -> Divided:
        """What this process is to read of the load, and what to receive."""
        ...


def prepare_load(
    paths: Sequence[str],
    config: StreamerConfig,
    credentials: S3Credentials | None,
    tensor_names: Collection[str] | None,
    device: torch.device = HOST,
    dtype: torch.dtype | None = None,
    sharing: Sharing | None = None,
) -> PreparedLoad:
    """Open all files, validate their headers and the request, and start to read.

    Tensors reach a CUDA device on the way; for any other, where CUDA's packages are missing, when they are cast, and
    with `sharing`, they are in host memory (`Load.device` says which), for the caller to move. With `sharing` they are
    not cast.

    Raises:
        StreamerError: what `SafetensorsStreamer.stream_files` says; nothing is left open.
    """
    names = _checked_names(tensor_names)
    target = None if dtype is None else target_name(dtype)
    shared = config.local_processes > 1 or _in_process_group()
    storage = Storage(config, credentials, shared=shared) if sharing is None else sharing.storage(config, credentials)
    opened: list[Opened] = []
    try:
        opened = (open_files if sharing is None else sharing.open_files)(
            storage, paths, config.concurrency_for(SourceKind.OBJECT)
        )
        wanted = [list(header.tensors) for _, header in opened] if names is None else _select(paths, opened, names)
        for path, tensors in zip(paths, wanted, strict=True):
            check_dtypes(path, tensors)
        _forgo_verification(opened, wanted)
        files = [
            PlannedFile(source.size, source.kind, source.alignment, config.chunk_for(source.kind), tensors)
            for (source, _), tensors in zip(opened, wanted, strict=True)
        ]
        kinds = {file.kind for file in files}
        concurrency = max((config.concurrency_for(kind) for kind in kinds), default=1)
        sources = [source for source, _ in opened]
        to_cast = frozenset() if target is None else sources_of(files, target)
        onto_gpu = None
        if device.type == "cuda" and not to_cast and sharing is None:
            onto_gpu = cuda_load(device, sources, files, config, concurrency, shared=shared)
        if onto_gpu is not None:
            load = Load(storage, sources, onto_gpu.files, None, concurrency, onto_gpu.destination)
        elif sharing is not None:
            limit = _limit(paths, files, config, processes=sharing.ranks_of_node)
            divided = sharing.divide(files, sources, limit, concurrency)
            load = Load(storage, divided.sources, divided.files, divided.limit, divided.concurrency)
        elif target is not None and to_cast:
            becoming = [file._replace(tensors=[held(tensor, target) for tensor in file.tensors]) for file in files]
            limit = _limit(paths, becoming, config, scratch=scratch_size(files))
            plan = plan_cast(files, target, to_cast, limit, concurrency)
            load = Load(storage, sources, files, None, concurrency, cast_destination(plan, files, concurrency))
        else:
            load = Load(storage, sources, files, _limit(paths, files, config), concurrency)
    except BaseException:
        for source, _ in opened:
            source.close()
        storage.close()
        raise
    return PreparedLoad(load, dict(enumerate(wanted)))


def _checked_names(names: Collection[str] | None) -> frozenset[str] | None:
    if names is None:
        return None
    if isinstance(names, str | bytes) or not isinstance(names, Collection):
        raise ArgumentTypeError(f"tensor_names is a list or set of names, not {type(names).__name__}: {names!r}")
    if not names:
        raise ArgumentError("tensor_names is empty: give the names to read, or None for all tensors")
    for name in names:
        if not isinstance(name, str):
            raise ArgumentTypeError(f"tensor_names holds {name!r}, which is no str")
    return frozenset(names)


def _select(paths: Sequence[str], opened: Sequence[Opened], names: frozenset[str]) -> list[list[TensorInfo]]:
    wanted = [[tensor for tensor in header.tensors if tensor.name in names] for _, header in opened]
    places: dict[str, list[str]] = {}
    for path, tensors in zip(paths, wanted, strict=True):
        for tensor in tensors:
            places.setdefault(tensor.name, []).append(path)
    unknown = sorted(names - places.keys())
    if unknown:
        raise ArgumentError(f"tensor_names has names that are in none of the {len(paths)} files: {_listed(unknown)}")
    twice = [f"{name!r} in {' and '.join(found)}" for name, found in sorted(places.items()) if len(found) > 1]
    if twice:
        raise ArgumentError(f"tensor_names has names that are in more than one file: {'; '.join(twice[:10])}")
    return wanted


def _forgo_verification(opened: Sequence[Opened], wanted: Sequence[Sequence[TensorInfo]]) -> None:
    """Where not all of an object is read, its checksum cannot be computed."""
    partial = 0
    for (source, header), tensors in zip(opened, wanted, strict=True):
        if isinstance(source, VerifiedSource) and len(tensors) < len(header.tensors):
            source.forgo()
            partial += 1
    if partial:
        _log.warning(
            "RUNAI_STREAMER_VERIFY: %d of %d files are not verified: tensor_names leaves out some of their tensors, "
            "and a store's checksum is one of the whole object",
            partial,
            len(opened),
        )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"


def _limit(
    paths: Sequence[str],
    files: Sequence[PlannedFile],
    config: StreamerConfig,
    *,
    scratch: int = 0,
    processes: int = 1,
) -> int | None:
    """Bytes that this process may hold at once: its part of the limit, when `processes` of the node share a load.

    Args:
        paths: for messages.
        files: with tensors of the sizes that they have in memory.
        config: with the limit.
        scratch: bytes needed beside the largest tensor.
        processes: of this node that share the limit.
    """
    if config.memory_limit == UNLIMITED:
        return None
    limit = config.memory_limit // processes
    largest = largest_tensor(files)
    if largest is None:
        return limit
    index, tensor = largest
    needed = tensor.nbytes + scratch
    if config.memory_limit == 0:
        return needed
    if limit < needed:
        size = f"{tensor.nbytes} bytes" + (f" as {tensor.dtype}, and {scratch} are needed to cast" if scratch else "")
        divided = f" for {processes} processes of this node" if processes > 1 else ""
        raise RunaiStreamerMemoryLimitException(
            f"{paths[index]}: tensor {tensor.name!r} has {size}, more than "
            f"RUNAI_STREAMER_MEMORY_LIMIT={config.memory_limit}{divided}; set it to {needed * processes} or more, "
            "or to 0 for as much as the largest tensor needs"
        )
    return limit


def _in_process_group() -> bool:
    """Whether this process is one of several in torch's default process group."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
