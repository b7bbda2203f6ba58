"""Makes a process group for broadcasts between devices, by the backend that torch has for them."""

import contextlib
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist

from runai_model_streamer.settings.environment import environment

_HOST_BACKENDS: Final = ("gloo", "mpi", "fake", "undefined")
"""Backends that carry bytes of a device through host memory, or not at all."""

_LONG: Final = timedelta(days=1)
"""The backend's own timeout, at which NCCL's watchdog would end the process. Ours comes first, and names the rank."""


def backend_for(device: torch.device) -> str | None:
    """Return the backend that the default process group has for a device, else torch's own; None if there is none."""
    config = dict(each.split(":", 1) for each in dist.get_backend_config().split(",") if ":" in each)
    for name in (config.get(device.type), dist.Backend.default_device_backend_map.get(device.type)):
        if name is not None and name not in _HOST_BACKENDS:
            return name
    return None


class DeviceGroup:
    """A process group of our own between the devices of some ranks.

    `torch.distributed.new_group` would not do; see `ranks.channel.Channel`.

    Args:
        backend: its name, as torch has it.
        store: where the ranks find each other; used for nothing else.
        index: of this rank, among `size`.
        size: number of ranks.

    Raises:
        RuntimeError: torch cannot make it.
    """

    def __init__(self, backend: str, store: Any, index: int, size: int) -> None:
        self._group: Any = _made(backend, store, index, size)
        self._aborted = False

    def broadcast(self, memory: torch.Tensor, root: int) -> Any:
        """Queue a broadcast behind the work of torch's current stream. Return torch's `Work`."""
        from torch.distributed import distributed_c10d as c10d  # not every torch has it

        options = c10d.BroadcastOptions()
        options.rootRank, options.rootTensor = root, 0
        return self._group.broadcast([memory], options)

    def abort(self) -> None:
        """End all broadcasts, which another rank may have left. The group cannot be used any more. Idempotent."""
        if self._aborted:
            return
        self._aborted = True
        # torch 2.5 and older have only NCCL's own.
        abort = getattr(self._group, "abort", None) or getattr(self._group, "_abort", None)
        if abort is not None:
            with contextlib.suppress(RuntimeError):
                abort()

    def close(self) -> None:
        """Release the group, whose broadcasts have run on all ranks, or have been aborted."""
        self._group = None


def _made(backend: str, store: Any, index: int, size: int) -> Any:
    from torch.distributed import distributed_c10d as c10d

    if backend == dist.Backend.NCCL:
        options = c10d.ProcessGroupNCCL.Options()
        options._timeout = _LONG  # noqa: SLF001 - torch's own name for it
        # Else the watchdog would end the process at an error, before anybody is told which rank is at fault.
        with environment({"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0"}):
            return c10d.ProcessGroupNCCL(store, index, size, options)
    plugin = dist.Backend._plugins.get(backend.upper())  # noqa: SLF001 - where `register_backend` puts it
    if plugin is None or plugin.extended_api:
        raise RuntimeError(f"a process group of the backend {backend} cannot be made here")
    return plugin.creator_fn(store, index, size, _LONG)
