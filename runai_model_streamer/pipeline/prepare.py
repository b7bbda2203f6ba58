"""From paths to a running load: opens, selects and checks everything before a byte of data is read."""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

import torch

from runai_model_streamer.checkpoint.header import Opened, read_header
from runai_model_streamer.checkpoint.tensor_info import TensorInfo, nbytes_of
from runai_model_streamer.config import GdsMode, PinnedMode, StreamerConfig
from runai_model_streamer.errors import (
    GdsUnavailableError,
)
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.source import Source
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.landing.assembly import assembled
from runai_model_streamer.pipeline.landing.tensors import check_dtypes
from runai_model_streamer.pipeline.load import Load
from runai_model_streamer.pipeline.memory.slabs import OtherMemory
from runai_model_streamer.pipeline.opening import open_files
from runai_model_streamer.pipeline.plan.casts import held, plan_cast, scratch_size, sources_of, target_name
from runai_model_streamer.pipeline.plan.groups import LARGE_BYTES, REST_BYTES, Grouping, PlannedFile, plan_groups
from runai_model_streamer.pipeline.plan.limit import LIMIT, MemoryLimit
from runai_model_streamer.pipeline.plan.request import checked_names, named
from runai_model_streamer.pipeline.plan.selection import Select, Selected, select_parts
from runai_model_streamer.pipeline.sharing import Sharing
from runai_model_streamer.pipeline.tally.load import Tally

_log = logging.getLogger(__name__)

HOST: Final = torch.device("cpu")


class PreparedLoad(NamedTuple):
    """A load that is ready to start."""

    load: Load
    metadata: dict[int, list[TensorInfo]]
    """Index of each file -> its tensors, in the order they come."""

    @property
    def size(self) -> int:
        """Bytes of all tensors, as they are in the files."""
        return sum(map(nbytes_of, self.metadata.values()))


def prepare_load(
    paths: Sequence[str],
    config: StreamerConfig,
    credentials: S3Credentials | None,
    tensor_names: Collection[str] | None,
    device: torch.device = HOST,
    dtype: torch.dtype | None = None,
    select: Select | None = None,
    sharing: Sharing | None = None,
    tally: Tally | None = None,
) -> PreparedLoad:
    """Open all files, validate their headers and the request, and plan what to read.

    Tensors reach a CUDA device on the way; for any other, and where CUDA's packages are missing (to cast, numba-cuda is
    one of them), they are in host memory (`Load.device` says which), for the caller to move.

    Raises:
        StreamerError: what `SafetensorsStreamer.stream_files` says; nothing is left open.
    """
    names = checked_names(tensor_names)
    target = None if dtype is None else target_name(dtype)
    with opening(config, credentials, sharing) as (storage, close_with):
        requests = config.concurrency_for(SourceKind.OBJECT)
        if sharing is None:
            opened = open_files(storage, paths, requests)
        else:
            asked = {"tensor_names": sorted(names or ()), "device": [device.type], "dtype": [str(target)]}
            opened = sharing.open_each(storage, paths, requests, read_header, asked)
        sources = [source for source, _ in opened]
        close_with.extend(sources)
        wanted = [list(header.tensors) for _, header in opened] if names is None else named(paths, opened, names)
        read, parts = wanted, None
        if select is not None:
            selected = select_parts(paths, wanted, [source.kind for source in sources], select, check_dtypes)
            wanted = [[part.info for part in each] for each in selected]
            read = [[piece for part in each for piece in part.reads] for each in selected]
            parts = [part for each in selected for part in each]
        else:
            for path, tensors in zip(paths, wanted, strict=True):
                check_dtypes(path, tensors)
        _skip_verification(opened, read)
        load = make_load(
            Start(storage, paths, sources, read, parts, sharing=sharing, tally=tally), config, device, target
        )
    return PreparedLoad(load, dict(enumerate(wanted)))


@contextmanager
def opening(
    config: StreamerConfig, credentials: S3Credentials | None, sharing: Sharing | None = None
) -> Iterator[tuple[Storage, list[Source]]]:
    """Storage to open sources from, and a list for those to be closed with it if no load comes of them after all."""
    if sharing is None:
        storage = Storage(config, credentials, shared=_is_shared(config))
    else:
        storage = sharing.storage(config, credentials)
    opened: list[Source] = []
    try:
        yield storage, opened
    except BaseException:
        for source in opened:
            source.close()
        storage.close()
        raise


class Start(NamedTuple):
    """What a load is made from: what to read, and from where."""

    storage: Storage
    paths: Sequence[str]
    """For messages, one for each source."""
    sources: Sequence[Source]
    tensors: Sequence[Sequence[TensorInfo]]
    """Of each source, in file order."""
    parts: Sequence[Selected] | None = None
    """What the caller gets of them; None: the same."""
    limit_name: str = LIMIT
    """What the memory limit is called in messages."""
    sharing: Sharing | None = None
    tally: Tally | None = None
    """Where the load is counted and timed; None: in one of its own."""


def make_load(start: Start, config: StreamerConfig, device: torch.device, target: str | None = None) -> Load:
    """Plan what to read.

    Args:
        device: where the tensors are to be; see `prepare_load`.
        target: the format's name of the dtype to cast to; None to leave tensors as they are.
    """
    storage, paths, sources, wanted, parts, name, sharing, given = start
    tally = Tally() if given is None else given
    files = [
        PlannedFile(source.size, source.kind, source.alignment, config.chunk_for(source.kind), tensors)
        for source, tensors in zip(sources, wanted, strict=True)
    ]
    kinds = {file.kind for file in files}
    concurrency = max((config.concurrency_for(kind) for kind in kinds), default=1)
    allowed = MemoryLimit(config.memory_limit, name)
    waits = False  # for other ranks
    if sharing is not None:
        terms = sharing.agree_on_terms(files, concurrency)
        files, concurrency, waits = list(terms.files), terms.concurrency, not terms.alone
        allowed = allowed._replace(processes=sharing.ranks_of_node, least=terms.least_limit)
    to_cast = frozenset() if target is None else sources_of(files, target)
    finish = None
    made = 0  # bytes of the largest tensor that is made of what has landed, beside that
    if parts is not None and any(part.rows for part in parts):
        finish = partial(assembled, parts=parts, tally=tally)
        made = max((part.info if target is None else held(part.info, target)).nbytes for part in parts if part.rows)
    destination = limit = memory = None
    if device.type == "cuda":
        from runai_model_streamer.pipeline.cuda.destination import cuda_load

        own = replace(config, memory_limit=allowed.part, gds=_gds(config, waits=waits))
        shared = _is_shared(config)
        onto_gpu = cuda_load(device, sources, files, own, concurrency, shared=shared, target=target, to_cast=to_cast)
        if onto_gpu is not None:
            files, destination = onto_gpu
    if destination is None and target is not None and to_cast:
        from runai_model_streamer.pipeline.landing.casting import cast_destination

        becoming = [file._replace(tensors=[held(tensor, target) for tensor in file.tensors]) for file in files]
        limit = allowed.bytes_for(paths, becoming, made, scratch_size(files))
        plan = plan_cast(files, target, to_cast, limit, concurrency)
        destination = cast_destination(plan, _page_locked(config, plan.slab_limit))
    elif destination is None:
        limit = allowed.bytes_for(paths, files, made)
        memory = _page_locked(config, limit)
    if device.type != "cuda" and not waits:
        files = [file._replace(rest=REST_BYTES) for file in files]
        # Reads land in place, of any size, if none is asked for. But within a limit the reader that has no more of a
        # group often waits for the next one's memory until another is done with this one.
        if destination is None and limit is None and config.chunk_bytesize is None:
            files = [file._replace(large=LARGE_BYTES if file.kind is SourceKind.FILE else 0) for file in files]
    kind = Grouping(limit) if destination is None else destination.grouping
    if sharing is not None:
        sources = sharing.divide(files, tuple(plan_groups(files, kind.limit, kind.target)), sources, kind)
    in_order = any(source.in_order for source in sources)
    if kind.readers is not None and (waits or in_order):
        # A reader that waits for another rank, or for another reader, holds what one whom that waits for may need.
        concurrency = min(concurrency, kind.readers)
    return Load(storage, sources, files, limit, concurrency, destination, finish, tally, memory)


def _gds(config: StreamerConfig, *, waits: bool) -> GdsMode:
    if waits and config.gds is GdsMode.ALWAYS:
        raise GdsUnavailableError(
            "RUNAI_STREAMER_GDS=1, but ranks that share a load send each other what they read, from host memory",
            remedy="leave out is_distributed=True, or set RUNAI_STREAMER_GDS=auto",
            sep=": ",
        )
    return GdsMode.NEVER if waits else config.gds


def _page_locked(config: StreamerConfig, limit: int | None) -> OtherMemory | None:
    if config.pinned is PinnedMode.NEVER or (config.pinned is PinnedMode.AUTO and not torch.cuda.is_initialized()):
        return None
    from runai_model_streamer.pipeline.memory.pinned import page_locking

    return page_locking(config.pinned, limit)


def _is_shared(config: StreamerConfig) -> bool:
    """Whether other processes of this node load the same files."""
    return config.local_processes > 1 or in_process_group()


def _skip_verification(opened: Sequence[Opened], read: Sequence[Sequence[TensorInfo]]) -> None:
    """Where not all of an object is read, its checksum cannot be computed."""
    partial_reads = 0
    for (source, header), tensors in zip(opened, read, strict=True):
        if source.verified_by is not None and (
            len(tensors) < len(header.tensors) or nbytes_of(tensors) < nbytes_of(header.tensors)
        ):
            source.skip_verification()
            partial_reads += 1
    if partial_reads:
        _log.warning(
            "RUNAI_STREAMER_VERIFY: %d of %d files are not verified: tensor_names or select leaves out some of their "
            "tensors, and a store's checksum is one of the whole object",
            partial_reads,
            len(opened),
        )


def in_process_group() -> bool:
    """Whether this process is one of several in torch's default process group."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
