"""Allocates device memory for tensors, through torch."""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Final, NamedTuple, Protocol, cast

import torch
from typing_extensions import override

from runai_model_streamer.checkpoint.tensor_info import torch_dtype
from runai_model_streamer.errors import CudaError, OutOfMemoryError
from runai_model_streamer.pipeline.cuda.image import Cast
from runai_model_streamer.pipeline.landing.tensors import TorchForm
from runai_model_streamer.pipeline.memory.process_end import allocating, casting
from runai_model_streamer.pipeline.plan.casts import Casting

_PACKED: Final = getattr(torch, "float4_e2m1fn_x2", None)
"""The dtype that torch cannot fill, as `torch.use_deterministic_algorithms` makes it do with all new memory."""


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

    def allocate(self, forms: Sequence[TorchForm]) -> Allocated:
        """Return tensors, each with its own storage, aligned to 256 bytes at least. From a thread of the load's.

        Reference counts free them, in the order of `Allocated.stream`: the memory may be reused at once by work that is
        queued there later.

        Raises:
            OutOfMemoryError: the device has no more memory.
        """
        ...

    def current_stream(self) -> int:
        """Return the calling thread's current stream."""
        ...

    def prepare_casts(self, planned: Casting) -> None:
        """Do what the first casts of these dtypes take, and what may wait for all work on the device."""
        ...

    def cast(self, casts: Sequence[Cast], stream: int) -> None:
        """Queue casts on a stream, from a thread of the load's.

        Raises:
            CudaError: a cast cannot be queued.
        """
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
        # A tenth of `torch.cuda.current_stream`, for every tensor. It is what code made by torch.compile calls.
        current = torch._C._cuda_getCurrentRawStream  # noqa: SLF001
        self._current_stream: Callable[[], int] = partial(current, device.index)

    @property
    @override
    def device(self) -> torch.device:
        return self._device

    @override
    def follow(self) -> None:
        self._stream = torch.cuda.current_stream(self._device)

    @override
    def allocate(self, forms: Sequence[TorchForm]) -> Allocated:
        device, stream = self._device, self._stream  # `follow` may change it meanwhile
        try:
            with allocating(), torch.cuda.device(device), torch.cuda.stream(stream):
                # Tensors are made at once as the caller gets them: no call for them is left to the caller's thread.
                tensors = new_tensors(forms, device)
                return Allocated(stream.cuda_stream, tensors)
        except torch.cuda.OutOfMemoryError as error:
            size = sum(prod(shape) * dtype.itemsize for shape, dtype in forms)
            raise OutOfMemoryError(f"{device} has no memory for {size} bytes of tensors: {error}") from error
        except RuntimeError as error:
            raise CudaError(f"torch.empty failed on {device}: {error}") from error

    @override
    def current_stream(self) -> int:
        return self._current_stream()

    @override
    def prepare_casts(self, planned: Casting) -> None:
        """Cast one element of each dtype: torch loads a kernel when it is first used."""
        if torch.cuda.is_current_stream_capturing():
            return
        target = torch_dtype(planned.target)
        try:
            for source in sorted(planned.sources):
                torch.empty(1, dtype=torch_dtype(source), device=self._device).to(target)
        except RuntimeError as error:
            raise CudaError(f"torch cannot cast on {self._device}: {error}") from error

    @override
    def cast(self, casts: Sequence[Cast], stream: int) -> None:
        """Cast by torch's own kernels, which need no compiler and are one launch for each tensor.

        numba-cuda's take 217 Python calls for each launch instead of 3, and 2.6 s of import and compilation in a
        process that has no cache (benchmarks/RUNS.md).
        """
        on = torch.cuda.ExternalStream(stream, device=self._device)
        try:
            with casting(), torch.cuda.device(self._device), torch.cuda.stream(on):
                for source, target in casts:
                    target.copy_(source)
        except RuntimeError as error:
            raise CudaError(f"a cast failed on {self._device}: {error}") from error

    @override
    def record(self, tensor: torch.Tensor) -> None:
        tensor.record_stream(torch.cuda.current_stream(self._device))


def new_tensors(forms: Sequence[TorchForm], device: torch.device) -> list[torch.Tensor]:
    """Allocate tensors, each with its own storage.

    The second and later ones of a form are made like the first. That takes torch half the time, since it parses no
    shape, dtype and device.
    """
    tensors: list[torch.Tensor] = []
    firsts: dict[tuple[object, ...], torch.Tensor] = {}
    for shape, dtype in forms:
        form = (*shape, dtype)  # plain numbers: `Shape` compares in Python
        first = firsts.get(form)
        if first is not None:
            tensor = torch.empty_like(first)
        elif dtype is _PACKED:
            tensor = _packed(shape, device)
        else:
            tensor = firsts[form] = torch.empty(shape, dtype=dtype, device=device)
        tensors.append(tensor)
    return tensors


def _packed(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    memory = torch.empty(prod(shape), dtype=torch.uint8, device=device)
    tensor = torch.empty(0, dtype=_PACKED, device=device)
    return cast(torch.Tensor, tensor.set_(memory.untyped_storage(), 0, shape))  # type: ignore[call-overload]  # strides may be left out
