"""Chooses where a load's tensors land. A new device, or a new way to land, is a module of its own and a line here."""

from collections.abc import Iterable

import torch

from runai_model_streamer.config import FanOut, LoadConfig
from runai_model_streamer.io.paths import is_object
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.cuda.destination import (
    CUDA,
    CudaParts,
    begin_staging,
    can_land,
    cuda_destination,
    cuda_tools,
)
from runai_model_streamer.pipeline.landing.destination import HOST, Destination, LoadSpec
from runai_model_streamer.pipeline.landing.host import host_destination


def begin_landing(device: torch.device, config: LoadConfig, paths: Iterable[str], cuda: CudaParts = CUDA) -> None:
    """Begin what takes time and needs no header, while headers are read. What is wrong, `destination_for` raises.

    Args:
        device: of the load.
        config: of the load.
        paths: the files and objects.
        cuda: what the load is made of.
    """
    if device.type == "cuda":
        kinds = {SourceKind.OBJECT if is_object(path) else SourceKind.FILE for path in paths}
        begin_staging(device, config, kinds, cuda)


def landing_device(device: torch.device, config: LoadConfig, cuda: CudaParts = CUDA) -> torch.device:
    """Return the device whose memory the bytes of a load that ranks share reach first: `device`, or the host.

    What it takes to land on a GPU is imported only if the answer matters now.
    """
    return device if device.type == "cuda" and config.fan_out is FanOut.DEVICE and can_land(cuda) else HOST


def destination_for(device: torch.device, spec: LoadSpec, cuda: CudaParts = CUDA) -> Destination:
    """Plan how the tensors of `spec` land.

    They land on a CUDA `device` if its packages are installed, else in host memory; `Destination.device` says where.
    The caller then moves them.

    Raises:
        StreamerError: the device or a setting cannot be used, or the memory limit is too low.
    """
    if device.type == "cuda":
        tools = cuda_tools(device, spec, cuda)
        if tools is not None:
            return cuda_destination(device, spec, tools, cuda)
    if spec.casting is not None:
        from runai_model_streamer.pipeline.landing.casting import cast_destination

        return cast_destination(spec, spec.casting)
    return host_destination(spec)
