"""Checks of the device that tensors go to, before anything is read."""

from collections.abc import Callable
from typing import Final, NamedTuple

import torch

from runai_model_streamer.errors import ArgumentError, DeviceError


class Gpus(NamedTuple):
    """What torch says of the GPUs that this process sees."""

    is_built: Callable[[], bool] = torch.backends.cuda.is_built
    is_available: Callable[[], bool] = torch.cuda.is_available
    device_count: Callable[[], int] = torch.cuda.device_count
    current_device: Callable[[], int] = torch.cuda.current_device


GPUS: Final = Gpus()


def resolve_device(device: str | torch.device | None, gpus: Gpus = GPUS) -> torch.device:
    """Return the device with its index. `cuda` alone is the current device, None is the host.

    Raises:
        ArgumentError: torch knows no device of this name, or it cannot hold tensors.
        DeviceError: this machine, or the installed torch, does not have it.
    """
    try:
        found = torch.device("cpu" if device is None else device)
    except (RuntimeError, TypeError) as error:
        raise ArgumentError(f"device {device!r} is unknown to torch", remedy='use "cpu" or "cuda:0"') from error
    if found.type == "cpu":
        return torch.device("cpu")
    if found.type == "meta":
        raise ArgumentError('device "meta" holds no bytes', remedy='stream to "cpu" or "cuda:0"')
    if found.type == "cuda":
        return _resolve_cuda(found, gpus)
    try:
        torch.empty(0, device=found)
    except Exception as error:  # each backend of torch raises its own
        # Some backends list everything that they support after the first line.
        reason = str(error).partition("\n")[0][:200]
        raise DeviceError(f'device "{found}" cannot be used: {reason}') from error
    return found


def _resolve_cuda(device: torch.device, gpus: Gpus) -> torch.device:
    if not gpus.is_built():
        raise DeviceError(
            f'device "{device}": the installed torch {torch.__version__} is built without CUDA',
            remedy='install one with it, or stream to "cpu"',
        )
    if not gpus.is_available():
        raise DeviceError(
            f'device "{device}": no GPU or no driver is found (nvidia-smi tells)', remedy='stream to "cpu"', sep="; or "
        )
    try:
        current = gpus.current_device()
    except RuntimeError as error:
        # CUDA fails in a forked child, whichever device is meant, and on a GPU in exclusive use.
        raise DeviceError(f'device "{device}" cannot be used: {error}') from error
    index = current if device.index is None else device.index
    count = gpus.device_count()
    if index >= count:
        raise DeviceError(
            f'device "{device}": this process sees {count} GPUs, numbered from 0 (CUDA_VISIBLE_DEVICES may hide some)'
        )
    return torch.device("cuda", index)
