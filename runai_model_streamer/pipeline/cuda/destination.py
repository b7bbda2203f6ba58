"""What a load onto a GPU is put together from: reads cut to the slots, files for GPUDirect, and the landing's parts."""

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from runai_model_streamer.config import UNLIMITED, GdsMode, StreamerConfig
from runai_model_streamer.errors import GdsUnavailableError, MissingDependencyError
from runai_model_streamer.io.files.gds import open_gds
from runai_model_streamer.io.source import Source
from runai_model_streamer.lifecycle import Lifecycle
from runai_model_streamer.pipeline.cuda.cast import DeviceCast, device_cast
from runai_model_streamer.pipeline.cuda.driver import CudaDriver, driver_api
from runai_model_streamer.pipeline.cuda.landing import CudaLanding, DeviceFile
from runai_model_streamer.pipeline.cuda.memory import TorchMemory
from runai_model_streamer.pipeline.cuda.slots import Staging, staging_for
from runai_model_streamer.pipeline.landing.protocol import Destination
from runai_model_streamer.pipeline.plan.groups import GROUP_BYTES, PlannedFile
from runai_model_streamer.ranges import PAGE

_log = logging.getLogger(__name__)


class CudaLoad(NamedTuple):
    """How a load onto a GPU differs from one into host memory."""

    files: list[PlannedFile]
    """With reads that fit into a slot."""
    destination: Destination


def cuda_load(
    device: torch.device,
    sources: Sequence[Source],
    files: Sequence[PlannedFile],
    config: StreamerConfig,
    concurrency: int,
    *,
    shared: bool,
    target: str | None = None,
    to_cast: Collection[str] = (),
) -> CudaLoad | None:
    """Plan the load of `files`, which `sources` hold, onto a CUDA device.

    Args:
        device: with its index.
        concurrency: reads in flight at once.
        shared: other processes of this node load the same files.
        target: the format's name of the dtype to cast to; None to leave tensors as they are.
        to_cast: the dtypes in the files that are cast to it.

    Returns:
        None where the packages for it, or what casts on the device, are missing, which is said in the log.

    Raises:
        RunaiStreamerMemoryLimitException: the limit leaves no room to stage anything in.
        GdsUnavailableError: RUNAI_STREAMER_GDS=1, and a file cannot be read so.
    """
    api = _api(device, config.gds)
    if api is None:
        return None
    cast = None
    if target is not None and to_cast:
        cast = _device_cast(device, api, target, to_cast)
        if cast is None and config.gds is GdsMode.ALWAYS:
            raise GdsUnavailableError(
                f"RUNAI_STREAMER_GDS=1: no GPUDirect onto {device}: tensors are to be cast, which numba-cuda cannot "
                "do there (see the log)",
                remedy="leave out dtype=, or set RUNAI_STREAMER_GDS=auto",
            )
        if cast is None:
            return None
    limit = None if config.memory_limit == UNLIMITED else config.memory_limit
    staging = staging_for(limit, max((file.chunk for file in files), default=PAGE), concurrency)
    direct: dict[int, DeviceFile] = {}
    looked_at: dict[int, DeviceFile | None] = {}  # one source may be behind many files of the plan
    try:
        for index, source in enumerate(sources):
            if id(source) not in looked_at:
                looked_at[id(source)] = open_gds(source, config.gds, shared=shared)
            file = looked_at[id(source)]
            if file is not None:
                direct[index] = file
    except BaseException:
        _close(direct)
        raise
    # Two groups are ahead of the caller: each is to have work for all readers.
    group_bytes = max(GROUP_BYTES, concurrency * staging.size)
    cut = [file._replace(chunk=min(file.chunk, staging.size)) for file in files]
    landing = partial(_landing, device, api, staging, direct, cast)
    return CudaLoad(cut, Destination(device, group_bytes, landing, stages=staging.slots))


def _api(device: torch.device, gds: GdsMode) -> Any:
    """The driver's interface, or None."""
    if torch.version.cuda is None:  # ROCm calls its devices "cuda" too
        return None
    try:
        return driver_api()
    except MissingDependencyError as error:
        if gds is GdsMode.ALWAYS:
            raise GdsUnavailableError(f"RUNAI_STREAMER_GDS=1: no GPUDirect onto {device}: {error}") from error
        _log.info("Tensors reach %s one by one, from host memory: %s", device, error)
        return None


def _device_cast(device: torch.device, api: Any, target: str, to_cast: Collection[str]) -> DeviceCast | None:
    driver = CudaDriver(device.index, api)
    try:
        return device_cast(driver, target, to_cast)
    finally:
        driver.close()


def _landing(
    device: torch.device,
    api: Any,
    staging: Staging,
    direct: Mapping[int, DeviceFile],
    cast: DeviceCast | None,
    lifecycle: Lifecycle,
) -> CudaLanding:
    try:
        memory = TorchMemory(device)
        driver = CudaDriver(device.index, api)
    except BaseException:
        _close(direct)
        raise
    return CudaLanding(driver, memory, staging, lifecycle, direct, cast)


def _close(files: Mapping[int, DeviceFile]) -> None:
    for file in files.values():
        file.close()
