"""Chooses where a load's tensors land. A new device, or a new way to land, is a module of its own and a line here."""

from collections.abc import Iterable

import torch

from runai_model_streamer.config import StreamerConfig
from runai_model_streamer.io.paths import is_object
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.landing.destination import Destination, LoadSpec
from runai_model_streamer.pipeline.landing.host import host_destination


def begin_landing(device: torch.device, config: StreamerConfig, paths: Iterable[str]) -> None:
    """Begin what takes time and needs no header, while headers are read. What is wrong, `destination_for` raises.

    Args:
        device: of the load.
        config: of the load.
        paths: the files and objects.
    """
    if device.type == "cuda":
        from runai_model_streamer.pipeline.cuda.destination import begin_staging

        begin_staging(device, config, {SourceKind.OBJECT if is_object(path) else SourceKind.FILE for path in paths})


def destination_for(device: torch.device, spec: LoadSpec) -> Destination:
    """Plan how the tensors of `spec` land.

    They land on a CUDA `device` if its packages are installed, else in host memory; `Destination.device` says where.
    The caller then moves them.

    Raises:
        StreamerError: the device or a setting cannot be used, or the memory limit is too low.
    """
    if device.type == "cuda":
        from runai_model_streamer.pipeline.cuda.destination import cuda_destination, cuda_tools

        tools = cuda_tools(device, spec)
        if tools is not None:
            return cuda_destination(device, spec, tools)
    if spec.casting is not None:
        from runai_model_streamer.pipeline.landing.casting import cast_destination

        return cast_destination(spec, spec.casting)
    return host_destination(spec)
