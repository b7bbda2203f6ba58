"""Device memory and its hand-over to torch: the one part of the CUDA path that an emulated driver cannot run."""

from collections.abc import Sequence
from typing import Protocol

import torch

from runai_model_streamer.errors import CudaError, OutOfMemoryError
from runai_model_streamer.pipeline.memory.process_end import allocating


class DeviceMemory(Protocol):
    """Where the tensors of a load are to live.

    Made in the caller's thread: `stream` is the stream that was current there.
    """

    @property
    def device(self) -> torch.device:
        """What torch calls the device."""
        ...

    @property
    def stream(self) -> int:
        """The stream that memory is allocated for: work queued there before may still use it, and must come first."""
        ...

    def allocate(self, sizes: Sequence[int]) -> list[torch.Tensor]:
        """One-dimensional tensors of this many bytes each, from any thread; aligned to 256 bytes at least.

        Freed by their reference counts, in the order of `stream`: memory may be given out again at once, to work that
        is queued there later.

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

    @property
    def stream(self) -> int:
        """The stream that was current where this was made."""
        return self._stream.cuda_stream

    def allocate(self, sizes: Sequence[int]) -> list[torch.Tensor]:
        """Tensors that share a storage with no other."""
        try:
            with allocating(), torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                return [torch.empty(size, dtype=torch.uint8, device=self._device) for size in sizes]
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
