"""Prepares a load: opens, selects and checks everything before a byte of data is read."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, TypeVar

import torch

from runai_model_streamer.checkpoint.header import read_header
from runai_model_streamer.checkpoint.tensor_info import TensorInfo, nbytes_of
from runai_model_streamer.config import LoadConfig
from runai_model_streamer.io.descriptors import at_most_allowed
from runai_model_streamer.io.paths import Several, is_object
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.source import Source
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.choosing import choose, skip_verification
from runai_model_streamer.pipeline.connections import ConnectionPace, thread_seconds
from runai_model_streamer.pipeline.destination import begin_landing, destination_for, landing_device
from runai_model_streamer.pipeline.landing.assembly import assembled, largest_assembled
from runai_model_streamer.pipeline.landing.destination import HOST, LoadSpec
from runai_model_streamer.pipeline.landing.into import Into, check_into, placed
from runai_model_streamer.pipeline.load import Finish, Load
from runai_model_streamer.pipeline.opening import open_each
from runai_model_streamer.pipeline.parts import PARTS, Parts
from runai_model_streamer.pipeline.plan.casts import casting_of, target_name
from runai_model_streamer.pipeline.plan.groups import PlannedFile
from runai_model_streamer.pipeline.plan.limit import LIMIT, MemoryLimit
from runai_model_streamer.pipeline.plan.local import with_local
from runai_model_streamer.pipeline.plan.request import checked_names
from runai_model_streamer.pipeline.plan.selection import Select, Selected
from runai_model_streamer.pipeline.sharing import Sharing
from runai_model_streamer.pipeline.tally.load import Tally

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class PreparedLoad(NamedTuple):
    """A load that is ready to start."""

    load: Load
    metadata: dict[int, list[TensorInfo]]
    """Index of each file -> its tensors, in the order in which they come."""

    @property
    def size(self) -> int:
        """Bytes of all tensors, as they are in the files."""
        return sum(map(nbytes_of, self.metadata.values()))


def prepare_load(
    paths: Sequence[str],
    config: LoadConfig,
    credentials: S3Credentials | None,
    tensor_names: Several[str] | None,
    device: torch.device = HOST,
    dtype: torch.dtype | None = None,
    select: Select | None = None,
    sharing: Sharing | None = None,
    tally: Tally | None = None,
    made_of: Parts = PARTS,
    into: Into | None = None,
) -> PreparedLoad:
    """Open all files, validate their headers and the request, and plan what to read.

    Tensors land on a CUDA `device` if its packages are installed, else in host memory, for the caller to move;
    `Load.device` says where.

    Raises:
        StreamerError: as `SafetensorsStreamer.stream_files`; nothing is left open.
    """
    names = checked_names(tensor_names)
    target = None if dtype is None else target_name(dtype)
    asked = {"tensor_names": sorted(names or ()), "device": [device.type], "dtype": [str(target)]}
    if sharing is None:  # else the ranks of the node divide the limit
        begin_landing(device, config, paths, made_of.cuda)
    with opening(config, credentials, sharing) as (storage, close_with):
        opened = open_all(storage, paths, config, read_header, sharing, asked)
        sources = [source for source, _ in opened]
        close_with.extend(sources)
        chosen = choose(paths, opened, names, select)
        if into is not None:
            check_into(into, paths, chosen.tensors, target, names is not None)
        skip_verification(opened, chosen.read)
        reads = list(map(FileReads, paths, sources, chosen.read))
        load = make_load(
            storage,
            reads,
            config,
            device,
            target=target,
            parts=chosen.parts,
            sharing=sharing,
            tally=tally,
            made_of=made_of,
            into=into,
        )
    return PreparedLoad(load, dict(enumerate(chosen.tensors)))


@contextmanager
def opening(
    config: LoadConfig, credentials: S3Credentials | None, sharing: Sharing | None = None
) -> Iterator[tuple[Storage, list[Source]]]:
    """Give a storage to open sources from, and a list for the sources. If the context fails, all of them are closed."""
    if sharing is None:
        storage = Storage(config, credentials, shared=is_shared(config))
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


def open_all(
    storage: Storage,
    paths: Sequence[str],
    config: LoadConfig,
    look: Callable[[Source], _T],
    sharing: Sharing | None,
    asked: Mapping[str, Collection[str]],
) -> list[tuple[Source, _T]]:
    """Open every path; see `open_each`. Ranks that share the load open them together.

    Args:
        storage, paths: what to open the sources from, and which.
        config: of the load.
        look: reads what has to be known of each source.
        sharing: the ranks that share the load; None: this process opens all.
        asked: what else all ranks have to ask for alike.
    """
    storage.expect(paths)
    requests = config.concurrency_for(SourceKind.OBJECT)
    if any(map(is_object, paths)):
        requests = at_most_allowed(requests)
    if sharing is None:
        return open_each(storage, paths, requests, look)
    return sharing.open_each(storage, paths, requests, look, asked)


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
    config: LoadConfig,
    device: torch.device = HOST,
    *,
    target: str | None = None,
    parts: Sequence[Selected] | None = None,
    limit_name: str = LIMIT,
    sharing: Sharing | None = None,
    tally: Tally | None = None,
    made_of: Parts = PARTS,
    into: Into | None = None,
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
        made_of: what the load is made of.
        into: the tensors that get the values, as `check_into` has checked them; None: the caller gets new ones.

    Raises:
        StreamerError: the destination cannot be used, or the memory limit is too low. The sources are not closed.
    """
    tally = Tally() if tally is None else tally
    sources: Sequence[Source] = [each.source for each in reads]
    files: Sequence[PlannedFile] = [
        with_local(
            PlannedFile(source.size, source.kind, source.alignment, config.chunk_for(source.kind), tensors),
            source.local,
            config.chunk_for,
        )
        for _, source, tensors in reads
    ]
    first, concurrency = _reads_at_once(files, config)
    limit = MemoryLimit(config.memory_limit, limit_name, second_answers=config.second_answers)
    waits_for_ranks, lent = False, None
    if sharing is not None:
        lands_on = landing_device(device, config, made_of.cuda)
        agreed = sharing.agree_on_reads(files, sources, first, lands_on)
        waits_for_ranks, lent = not agreed.alone, agreed.lent
        if waits_for_ranks:
            concurrency = agreed.concurrency
        limit = limit._replace(processes=sharing.ranks_of_node, minimum=agreed.min_limit, buffers=agreed.buffers)
        tally.count_shared = sharing.counts
    assembled_bytes = largest_assembled(parts or (), target)
    spec = LoadSpec(
        config=config,
        paths=[each.path for each in reads],
        sources=sources,
        files=files,
        limit=limit,
        concurrency=concurrency,
        casting=casting_of(files, target),
        assembled=assembled_bytes,
        shared=is_shared(config),
        waits_for_ranks=waits_for_ranks,
        lent=lent,
        setup=storage.setup,
    )
    destination = destination_for(device, spec, made_of.cuda)
    grouping = destination.grouping
    if sharing is not None:
        sources = sharing.divide(destination.files, destination.groups, sources)
    if grouping.readers is not None and (waits_for_ranks or any(source.in_order for source in sources)):
        # A reader that waits for another rank, or for another reader, may hold what that one needs.
        concurrency = min(concurrency, grouping.readers)
    finishing: list[Finish] = []
    if parts and assembled_bytes:
        finishing.append(partial(assembled, parts=parts, tally=tally))
    if into is not None:
        finishing.append(partial(placed, into=into, tally=tally))
    pace = None
    if not waits_for_ranks and any(file.kind is SourceKind.OBJECT for file in files):
        minimum = first if config.s3.connections else 1
        pace = ConnectionPace(
            first, concurrency, time.perf_counter(), lambda: storage.refusals, minimum, thread_seconds
        )
    return Load(storage, sources, destination, concurrency, finishing, tally, connections=pace)


def _reads_at_once(files: Sequence[PlannedFile], config: LoadConfig) -> tuple[int, int]:
    """Return how many reads are in flight to begin with, and at most."""
    kinds = {file.kind for file in files} | {SourceKind.FILE for file in files if file.cuts}
    first = max((config.concurrency_for(kind) for kind in kinds), default=1)
    maximum = max((config.max_concurrency_for(kind) for kind in kinds), default=1)
    if SourceKind.OBJECT not in kinds:
        return first, maximum
    allowed = at_most_allowed(maximum)
    if allowed < first:
        _log.warning(
            "%d connections at once instead of %d: this process may open no more files; raise `ulimit -n`",
            allowed, first,
        )  # fmt: skip
    return min(first, allowed), allowed


def is_shared(config: LoadConfig) -> bool:
    """Return whether other processes of this node load the same files."""
    return config.local_processes > 1 or in_process_group()


def in_process_group() -> bool:
    """Return whether this process is one of several in torch's default process group."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
