"""Device memory and its hand-over to torch."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from runai_model_streamer.errors import CudaError, OutOfMemoryError
from runai_model_streamer.pipeline.memory.process_end import allocating


class Allocated(NamedTuple):
    """Memory of one group."""

    stream: int
    """The stream that it is allocated for: work queued there before may still use it, and must come first."""
    tensors: list[torch.Tensor]


class DeviceMemory(Protocol):
    """Where the tensors of a load are to live.

    Made in the caller's thread: memory is allocated for the stream that was current there, or later at `follow`.
    """

    @property
    def device(self) -> torch.device:
        """What torch calls the device."""
        ...

    def follow(self) -> None:
        """Allocate for the stream that is current in the calling thread, from now on.

        A caller who stays on one stream, but not the one on which the load was started, so needs no `record` after the
        first groups: where a pool or a capture is in use, torch gives recorded memory back only when that ends.
        """
        ...

    def allocate(self, sizes: Sequence[int]) -> Allocated:
        """One-dimensional tensors of this many bytes each, from any thread; aligned to 256 bytes at least.

        Freed by their reference counts, in the order of `Allocated.stream`: memory may be given out again at once, to
        work that is queued there later.

        Raises:
            OutOfMemoryError: the device has no more.
        """
        ...

    def current_stream(self) -> int:
        """The stream that is current in the calling thread."""
        ...

    def record(self, tensor: torch.Tensor) -> None:
        """The calling thread's current stream will use the tensor: once freed, it is not given out before that has."""
        ...


class TorchMemory:
    """Memory of torch's own caching allocator, by torch's own means; see `DeviceMemory`.

    Not CuPy's arrays on that allocator, handed over by DLPack. Such a tensor is foreign to the allocator that its
    memory came from: `Tensor.record_stream` does nothing for it, without a word, so that a caller who uses it on a
    second stream, as torch's documentation says to, would see its memory given away under its kernels.

    The device is made current wherever torch is asked for something. A thread's current device is the first one, else,
    and torch would make a context there, which takes some 530 MB: `torch.cuda.stream` sets the stream of the current
    device when it is left, and with it the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._stream = torch.cuda.current_stream(device)

    @property
    def device(self) -> torch.device:
        """The device."""
        return self._device

    def follow(self) -> None:
        """See `DeviceMemory.follow`."""
        self._stream = torch.cuda.current_stream(self._device)

    def allocate(self, sizes: Sequence[int]) -> Allocated:
        """Tensors that share a storage with no other."""
        stream = self._stream  # the caller may change it meanwhile
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

    def current_stream(self) -> int:
        """The calling thread's."""
        return torch.cuda.current_stream(self._device).cuda_stream

    def record(self, tensor: torch.Tensor) -> None:
        """See `torch.Tensor.record_stream`."""
        tensor.record_stream(torch.cuda.current_stream(self._device))
