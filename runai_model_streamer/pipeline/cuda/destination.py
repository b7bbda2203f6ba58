"""Makes the `Destination` of a load onto a GPU: reads that fit the slots, files for GPUDirect, and the landing."""

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import torch

from runai_model_streamer.config import UNLIMITED, GdsMode, LoadConfig
from runai_model_streamer.errors import (
    CudaError,
    GdsUnavailableError,
    MissingDependencyError,
    RunaiStreamerMemoryLimitException,
)
from runai_model_streamer.io.files.cufile import RegisteredMemory
from runai_model_streamer.io.files.gds import open_gds
from runai_model_streamer.io.source import Source
from runai_model_streamer.lifecycle import Lifecycle
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.cuda.arena import ARENAS, Arenas
from runai_model_streamer.pipeline.cuda.direct import DeviceFile, DirectReads, Register
from runai_model_streamer.pipeline.cuda.driver import CudaDriver, driver_api
from runai_model_streamer.pipeline.cuda.landing import CudaLanding
from runai_model_streamer.pipeline.cuda.lent import LentLanding, page_locked
from runai_model_streamer.pipeline.cuda.memory import DeviceMemory, TorchMemory
from runai_model_streamer.pipeline.cuda.near import enough
from runai_model_streamer.pipeline.cuda.staging import MAX_BYTES, OBJECT_FACTOR, Staging, staging_for
from runai_model_streamer.pipeline.landing.destination import Destination, LoadSpec
from runai_model_streamer.pipeline.plan.groups import GROUP_BYTES, LARGE_GROUP_BYTES, Group, Grouping
from runai_model_streamer.ranges import PAGE, round_down

_log = logging.getLogger(__name__)

GROUPS_IN_FLIGHT: Final = 4
"""Groups that the bytes in flight belong to, at least. Their memory on the device is little more than those bytes."""


class OpenGds(Protocol):
    """The signature of `open_gds`."""

    def __call__(self, source: Source, mode: GdsMode, *, shared: bool) -> DeviceFile | None:
        """Return the file for reads into device memory, or None."""
        ...


class CudaParts(NamedTuple):
    """The replaceable parts of loads onto GPUs. Tests pass others."""

    torch_version: str | None = torch.version.cuda
    """The CUDA version that torch is built for; None for ROCm, which also calls its devices "cuda"."""
    driver_api: Callable[[], Any] = driver_api
    memory: Callable[[torch.device], DeviceMemory] = TorchMemory
    open_gds: OpenGds = open_gds
    register: Register = RegisteredMemory
    arenas: Arenas = ARENAS
    max_pinned: int = MAX_BYTES
    """Maximum bytes of all slots without a memory limit."""


CUDA: Final = CudaParts()


class CudaTools(NamedTuple):
    """What a load onto a GPU needs in addition to torch."""

    api: Any
    """The driver's interface: `cuda.bindings.driver`."""
    gds: GdsMode


def cuda_tools(device: torch.device, spec: LoadSpec, parts: CudaParts = CUDA) -> CudaTools | None:
    """Find what `cuda_destination` needs. If packages are missing, log which and return None.

    Args:
        device: a CUDA device with its index.
        spec: what is loaded.
        parts: replaceable parts of the load.

    Raises:
        GdsUnavailableError: RUNAI_STREAMER_GDS=1, but this load cannot use GPUDirect Storage.
    """
    gds = _gds_mode(spec)
    with spec.setup.during("imports"):
        api = _api(device, gds, parts)
    if api is None:
        return None
    return CudaTools(api, gds)


def can_land(parts: CudaParts = CUDA) -> bool:
    """Return whether loads can land on a GPU: torch is built for CUDA, and its packages are installed."""
    try:
        return parts.torch_version is not None and parts.driver_api() is not None
    except MissingDependencyError:
        return False


def begin_staging(
    device: torch.device, config: LoadConfig, kinds: Collection[SourceKind], parts: CudaParts = CUDA
) -> None:
    """Begin to page-lock the staging memory of a load, before its files are opened.

    With limit 0 it does nothing: if the load then failed, the memory would stay page-locked.

    Args:
        device: a CUDA device with its index.
        config: the load's settings.
        kinds: the kinds of the files' sources.
        parts: replaceable parts of the load.
    """
    if parts.torch_version is None or not config.memory_limit or not kinds:
        return
    limit = None if config.memory_limit == UNLIMITED else config.memory_limit
    chunk, concurrency = max(map(config.chunk_for, kinds)), max(map(config.max_concurrency_for, kinds))
    try:
        grows = _grows(config, kinds)
        staging = staging_for(limit, chunk, concurrency, _most(kinds, parts), grows=grows)
        parts.arenas.begin(device.index, parts.driver_api(), staging)
    except (MissingDependencyError, RunaiStreamerMemoryLimitException):
        return  # the load itself will raise or log this


def _most(kinds: Collection[SourceKind], parts: CudaParts) -> int:
    """Return the most bytes to stage in. A slot is a connection to object storage, and each of them is slow."""
    return parts.max_pinned * (OBJECT_FACTOR if SourceKind.OBJECT in kinds else 1)


def _grows(config: LoadConfig, kinds: Collection[SourceKind]) -> bool:
    """Return whether reads become larger on fast storage: of files, unless the user has set their size."""
    return config.chunk_bytesize is None and SourceKind.OBJECT not in kinds


def _gds_mode(spec: LoadSpec) -> GdsMode:
    gds = spec.config.gds
    if spec.waits_for_ranks and gds is GdsMode.ALWAYS:
        raise GdsUnavailableError(
            "RUNAI_STREAMER_GDS=1, but ranks that share a load send each other what they read, from host memory",
            remedy="leave out is_distributed=True, or set RUNAI_STREAMER_GDS=auto",
            sep=": ",
        )
    return GdsMode.NEVER if spec.waits_for_ranks else gds


def cuda_destination(device: torch.device, spec: LoadSpec, tools: CudaTools, parts: CudaParts = CUDA) -> Destination:
    """Make the destination on a CUDA device. Reads go through pinned memory, or by GPUDirect if the file supports it.

    Raises:
        RunaiStreamerMemoryLimitException: the limit is too small for two slots.
    """
    limit = None if spec.limit.part == UNLIMITED else spec.limit.part
    chunk = max((file.chunk for file in spec.files), default=PAGE)
    kinds = {file.kind for file in spec.files}
    grows = _grows(spec.config, kinds) and not spec.waits_for_ranks
    staging = staging_for(limit, chunk, spec.concurrency, _most(kinds, parts), grows=grows)
    first = max(GROUP_BYTES, min(chunk, staging.size))
    large = staging.largest if grows else 0
    later = max(first, min(LARGE_GROUP_BYTES, staging.bytes // GROUPS_IN_FLIGHT))
    if large:
        later = max(first, round_down(later, large))  # whole reads
    files = [
        file._replace(chunk=min(file.chunk, staging.size), large=large, group=later, shared_copies=False)
        for file in spec.files
    ]
    # All slots are in use while the caller takes a group.
    landing = partial(_landing, device, spec, tools, parts, staging, staging.bytes + later)
    return Destination(device, files, Grouping(None, first, staging.slots), landing)


def _api(device: torch.device, gds: GdsMode, parts: CudaParts) -> Any:
    """Return the driver's interface, or None."""
    if parts.torch_version is None:
        return None
    try:
        return parts.driver_api()
    except MissingDependencyError as error:
        if gds is GdsMode.ALWAYS:
            raise GdsUnavailableError(
                f"RUNAI_STREAMER_GDS=1: no GPUDirect onto {device}: {error.summary}", remedy=error.remedy, sep=": "
            ) from error
        _log.info("Tensors reach %s one by one, from host memory: %s", device, error)
        return None


def _landing(
    device: torch.device,
    spec: LoadSpec,
    tools: CudaTools,
    parts: CudaParts,
    staging: Staging,
    ahead: int,
    lifecycle: Lifecycle,
    groups: Sequence[Group],
) -> CudaLanding:
    files = _direct_files(spec.sources, tools.gds, spec.shared, parts.open_gds)
    try:
        memory = parts.memory(device)
        if spec.casting is not None:
            with spec.setup.during("imports"):  # as these, it is done once in a process
                memory.prepare_casts(spec.casting)
        driver = CudaDriver(device.index, tools.api)
        direct = _direct_reads(device, tools, files, staging, lifecycle, parts.register)
    except BaseException:
        _close(files)
        raise
    near = parts.arenas.find_cpus(driver.pci_address)
    target = None if spec.casting is None else spec.casting.target
    cpus = enough(near, spec.concurrency, len(os.sched_getaffinity(0)))
    lent = None if spec.lent is None else page_locked(driver, spec.lent)
    make = CudaLanding if lent is None else partial(LentLanding, lent)
    return make(driver, memory, staging, lifecycle, groups, parts.arenas, direct, target, cpus, ahead)


def _direct_reads(
    device: torch.device,
    tools: CudaTools,
    files: Mapping[int, DeviceFile],
    staging: Staging,
    lifecycle: Lifecycle,
    register: Register,
) -> DirectReads | None:
    """Prepare the device memory for direct reads. If it cannot be had, close the files, log it and return None."""
    if not files:
        return None
    try:
        return DirectReads(CudaDriver(device.index, tools.api), files, staging, lifecycle, register)
    except (CudaError, GdsUnavailableError) as error:
        if tools.gds is GdsMode.ALWAYS:
            raise GdsUnavailableError(
                f"RUNAI_STREAMER_GDS=1, but GPUDirect has no memory on {device}: {error.summary}",
                remedy="set RUNAI_STREAMER_MEMORY_LIMIT to use less, or RUNAI_STREAMER_GDS=auto",
                sep=": ",
            ) from error
        _log.info("Files are read through page-locked memory, not by GPUDirect: %s", error)
        return None


def _direct_files(sources: Sequence[Source], gds: GdsMode, shared: bool, open_gds: OpenGds) -> dict[int, DeviceFile]:
    """Open the files that GPUDirect reads. Return them by their index in the plan."""
    direct: dict[int, DeviceFile] = {}
    looked_at: dict[int, DeviceFile | None] = {}  # several files of the plan may have one source
    try:
        for index, source in enumerate(sources):
            if id(source) not in looked_at:
                looked_at[id(source)] = open_gds(source, gds, shared=shared)
            file = looked_at[id(source)]
            if file is not None:
                direct[index] = file
    except BaseException:
        _close(direct)
        raise
    return direct


def _close(files: Mapping[int, DeviceFile]) -> None:
    for file in files.values():
        file.close()
