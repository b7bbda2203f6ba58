"""From paths to a running load: opens, selects and checks everything before a byte of data is read."""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch

from runai_model_streamer.checkpoint.header import Opened, read_header
from runai_model_streamer.checkpoint.tensor_info import TensorInfo, nbytes_of
from runai_model_streamer.config import StreamerConfig
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.source import Source
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.destination import destination_for
from runai_model_streamer.pipeline.landing.assembly import assembled, largest_assembled
from runai_model_streamer.pipeline.landing.destination import HOST, LoadSpec
from runai_model_streamer.pipeline.landing.tensors import check_dtypes
from runai_model_streamer.pipeline.load import Load
from runai_model_streamer.pipeline.opening import open_files
from runai_model_streamer.pipeline.plan.casts import casting_of, target_name
from runai_model_streamer.pipeline.plan.groups import PlannedFile
from runai_model_streamer.pipeline.plan.limit import LIMIT, MemoryLimit
from runai_model_streamer.pipeline.plan.request import checked_names, named
from runai_model_streamer.pipeline.plan.selection import Select, Selected, select_parts
from runai_model_streamer.pipeline.sharing import Sharing
from runai_model_streamer.pipeline.tally.load import Tally

_log = logging.getLogger(__name__)


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
        reads = list(map(FileReads, paths, sources, read))
        load = make_load(storage, reads, config, device, target=target, parts=parts, sharing=sharing, tally=tally)
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


class FileReads(NamedTuple):
    """What to read of one file."""

    path: str
    """For messages."""
    source: Source
    tensors: Sequence[TensorInfo]
    """In file order."""


def make_load(
    storage: Storage,
    reads: Sequence[FileReads],
    config: StreamerConfig,
    device: torch.device = HOST,
    *,
    target: str | None = None,
    parts: Sequence[Selected] | None = None,
    limit_name: str = LIMIT,
    sharing: Sharing | None = None,
    tally: Tally | None = None,
) -> Load:
    """Plan what to read, and where it lands.

    Args:
        storage: what the sources were opened from.
        reads: of each file, in the order in which tensors come.
        config: of the load.
        device: where the tensors should be; see `prepare_load`.
        target: the format's name of the dtype to cast to; None to leave tensors as they are.
        parts: what the caller gets of what is read; None: the same.
        limit_name: what messages call the memory limit.
        sharing: other processes that read the same; None: this one reads all.
        tally: where the load is counted and timed; None: in one of its own.

    Raises:
        StreamerError: the destination cannot be used, or the memory limit is too low. The sources are not closed.
    """
    tally = Tally() if tally is None else tally
    sources: Sequence[Source] = [each.source for each in reads]
    files: Sequence[PlannedFile] = [
        PlannedFile(source.size, source.kind, source.alignment, config.chunk_for(source.kind), tensors)
        for _, source, tensors in reads
    ]
    concurrency = max((config.concurrency_for(file.kind) for file in files), default=1)
    limit = MemoryLimit(config.memory_limit, limit_name)
    waits_for_ranks = False
    if sharing is not None:
        agreed = sharing.agree_on_reads(files, concurrency)
        files, concurrency, waits_for_ranks = agreed.files, agreed.concurrency, not agreed.alone
        limit = limit._replace(processes=sharing.ranks_of_node, minimum=agreed.min_limit)
    assembled_bytes = largest_assembled(parts or (), target)
    spec = LoadSpec(
        config,
        [each.path for each in reads],
        sources,
        files,
        limit,
        concurrency,
        casting_of(files, target),
        assembled_bytes,
        _is_shared(config),
        waits_for_ranks,
    )
    destination = destination_for(device, spec)
    grouping = destination.grouping
    if sharing is not None:
        sources = sharing.divide(destination.files, destination.groups, sources, grouping)
    if grouping.readers is not None and (waits_for_ranks or any(source.in_order for source in sources)):
        # A reader that waits for another rank, or for another reader, may hold what that one needs.
        concurrency = min(concurrency, grouping.readers)
    finish = partial(assembled, parts=parts, tally=tally) if parts and assembled_bytes else None
    return Load(storage, sources, destination, concurrency, finish, tally)


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
