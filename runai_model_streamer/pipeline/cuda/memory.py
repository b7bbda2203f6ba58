"""Allocates device memory for tensors, through torch."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from typing_extensions import override

from runai_model_streamer.errors import CudaError, OutOfMemoryError
from runai_model_streamer.pipeline.memory.process_end import allocating


class Allocated(NamedTuple):
    """The memory of one group."""

    stream: int
    """The stream that it is allocated for. Work queued there earlier may still use the memory, and must run first."""
    tensors: list[torch.Tensor]


class DeviceMemory(Protocol):
    """Allocates the tensors of a load.

    Make it in the caller's thread: memory is allocated for the stream that is current there, or later at `follow`.
    """

    @property
    def device(self) -> torch.device:
        """The device, as torch names it."""
        ...

    def follow(self) -> None:
        """Allocate for the calling thread's current stream from now on.

        So a caller who stays on one stream, but not the one that was current at the start, needs no `record` after the
        first groups. With a memory pool or a graph capture, torch frees recorded memory only when that ends.
        """
        ...

    def allocate(self, sizes: Sequence[int]) -> Allocated:
        """Return one-dimensional tensors of these sizes in bytes, aligned to 256 bytes at least. From any thread.

        Reference counts free them, in the order of `Allocated.stream`: the memory may be reused at once by work that is
        queued there later.

        Raises:
            OutOfMemoryError: the device has no more memory.
        """
        ...

    def current_stream(self) -> int:
        """Return the calling thread's current stream."""
        ...

    def record(self, tensor: torch.Tensor) -> None:
        """Note that the calling thread's current stream uses the tensor. Its memory is reused only after that work."""
        ...


class TorchMemory(DeviceMemory):
    """Allocates from torch's caching allocator, as `DeviceMemory`.

    CuPy arrays on that allocator, handed over by DLPack, would not do. The allocator does not know such a tensor, and
    `Tensor.record_stream` silently does nothing for it. A caller who uses it on a second stream, as torch's
    documentation says to, would lose its memory while kernels still use it.

    Each call makes the device current first. Otherwise a thread's current device is the first one, and torch would make
    a context there, which takes 530 MB: leaving `torch.cuda.stream` sets the stream of the current device, and with it
    the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._stream = torch.cuda.current_stream(device)

    @property
    @override
    def device(self) -> torch.device:
        return self._device

    @override
    def follow(self) -> None:
        self._stream = torch.cuda.current_stream(self._device)

    @override
    def allocate(self, sizes: Sequence[int]) -> Allocated:
        """Allocate tensors, each with its own storage."""
        stream = self._stream  # `follow` may change it meanwhile
        try:
            with allocating(), torch.cuda.device(self._device), torch.cuda.stream(stream):
                tensors = [torch.empty(size, dtype=torch.uint8, device=self._device) for size in sizes]
                return Allocated(stream.cuda_stream, tensors)
        except torch.cuda.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"{self._device} has no memory for {sum(sizes)} bytes of tensors: {error}"
            ) from error
        except RuntimeError as error:
            raise CudaError(f"torch.empty failed on {self._device}: {error}") from error

    @override
    def current_stream(self) -> int:
        return torch.cuda.current_stream(self._device).cuda_stream

    @override
    def record(self, tensor: torch.Tensor) -> None:
        tensor.record_stream(torch.cuda.current_stream(self._device))
