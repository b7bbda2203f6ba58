"""A machine with a GPU, for tests of the CUDA landing: the emulated driver, memory as torch's allocator gives it out,
and a caller who works on tensors as they come.

The driver is called as in production, through `cuda.bindings.driver` or, where that is not installed and inside
pytest's own process, through `CtypesApi`, which has the same functions.
"""

import ctypes
import random
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer.checkpoint.header import read_header
from runai_model_streamer.config import LoadConfig
from runai_model_streamer.device import Gpus
from runai_model_streamer.errors import CudaError
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.lifecycle import Lifecycle
from runai_model_streamer.origins import Origin, SourceKind
from runai_model_streamer.pipeline.cuda.arena import Arenas
from runai_model_streamer.pipeline.cuda.destination import CudaParts
from runai_model_streamer.pipeline.cuda.direct import DeviceFile, DirectReads
from runai_model_streamer.pipeline.cuda.driver import CudaDriver
from runai_model_streamer.pipeline.cuda.image import Cast
from runai_model_streamer.pipeline.cuda.landing import CudaLanding
from runai_model_streamer.pipeline.cuda.lent import LentLanding, page_locked
from runai_model_streamer.pipeline.cuda.memory import Allocated
from runai_model_streamer.pipeline.cuda.near import FindCpus, near_cpus
from runai_model_streamer.pipeline.cuda.staging import Staging, staging_for
from runai_model_streamer.pipeline.landing.destination import Destination
from runai_model_streamer.pipeline.landing.lent import LentMemory
from runai_model_streamer.pipeline.landing.tensors import TorchForm
from runai_model_streamer.pipeline.load import Load
from runai_model_streamer.pipeline.parts import Parts
from runai_model_streamer.pipeline.plan.casts import Casting
from runai_model_streamer.pipeline.plan.groups import Group, Grouping, PlannedFile
from runai_model_streamer.ranges import round_up
from tests.checkpoints import Stored, encode, join_ours
from tests.cuda_emulator import Emulator
from tests.sources import MemorySource
from tests.streamers import streamer_of

NON_BLOCKING: Final = 1
FORMATS: Final = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3"}
"""The format's names of what is cast."""

OLD_WORK: Final = 0xDD
"""What kernels of the caller write into memory that it has freed before they ran."""

GPU: Final = torch.device("cuda", 0)

ONE_GPU: Final = Gpus(lambda: True, lambda: True, lambda: 1, lambda: 0)

DEVICE: Final = torch.device("cpu")
"""What torch calls the emulator's device: its memory is host memory."""


class Code(int):
    """A result, with its name as cuda.bindings has it."""

    @property
    def name(self) -> str:
        return f"CUDA_ERROR_{int(self)}"


class CtypesApi:
    """The functions of `cuda.bindings.driver` that are used, on an emulator that was loaded into this process."""

    _RETURNS = (
        "cuDriverGetVersion",
        "cuDeviceGet",
        "cuDevicePrimaryCtxRetain",
        "cuCtxPopCurrent",
        "cuStreamCreate",
        "cuEventCreate",
        "cuMemAlloc",
        "cuMemHostAlloc",
    )
    CUDA_VERSION = 13000
    CUstreamCaptureMode = CUdeviceptr = int
    CUmemcpyAttributes = SimpleNamespace
    CUmemcpySrcAccessOrder = SimpleNamespace(CU_MEMCPY_SRC_ACCESS_ORDER_STREAM=1)

    def __init__(self, emulator: Emulator) -> None:
        self._library = emulator.library

    def _exchange(self, mode: int) -> tuple[Any, ...]:
        value = ctypes.c_int(mode)
        return Code(self._library.cuThreadExchangeStreamCaptureMode(ctypes.byref(value))), value.value

    def _is_capturing(self, stream: int) -> tuple[Any, ...]:
        status = ctypes.c_int()
        code = self._library.cuStreamIsCapturing(ctypes.c_uint64(stream), ctypes.byref(status))
        return Code(code), status.value

    def _copy_batch(
        self,
        targets: list[int],
        sources: list[int],
        sizes: list[int],
        count: int,
        _: Any,
        __: Any,
        ___: int,
        stream: int,
    ) -> tuple[Any, ...]:
        lists = [(ctypes.c_uint64 * count)(*numbers) for numbers in (targets, sources, sizes)]
        none = ctypes.c_void_p()
        numbers = (ctypes.c_size_t(count), none, none, ctypes.c_size_t(0), ctypes.c_uint64(stream))
        return (Code(self._library.cuMemcpyBatchAsync_v2(*lists, *numbers)),)

    def _pci_address(self, length: int, device: int) -> tuple[Any, ...]:
        made = ctypes.create_string_buffer(length)
        return Code(self._library.cuDeviceGetPCIBusId(made, length, device)), made.raw

    def __getattr__(self, name: str) -> Any:
        if name == "cuMemcpyBatchAsync":
            return self._copy_batch
        if name == "cuDeviceGetPCIBusId":
            return self._pci_address
        if name == "cuThreadExchangeStreamCaptureMode":
            return self._exchange
        if name == "cuStreamIsCapturing":
            return self._is_capturing
        # What cuda.h makes of the name. cuCtxSynchronize_v2 is another function.
        versioned = name != "cuCtxSynchronize" and hasattr(self._library, f"{name}_v2")
        function = getattr(self._library, f"{name}_v2" if versioned else name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            wide = [ctypes.c_uint64(int(argument)) for argument in arguments]
            if name not in self._RETURNS:
                return (Code(function(*wide)),)
            value = ctypes.c_uint64()
            return Code(function(ctypes.byref(value), *wide)), value.value

        return call


class Faulty:
    """An API of which one call can be made to fail, by its name and number; one that undoes does so all the same."""

    def __init__(self, api: Any) -> None:
        self._api = api
        self.calls: Counter[str] = Counter()
        self.fails: tuple[str, int] | None = None
        """The name and number (from 1) of the call that fails."""

    def count(self, name: str) -> int:
        """A call of this name is made: the code that it is to fail with, or 0."""
        self.calls[name] += 1
        return 999 if self.fails == (name, self.calls[name]) else 0

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._api, name)
        if not name.startswith("cu"):
            return function  # a type or a constant

        def call(*arguments: Any) -> tuple[Any, ...]:
            if not self.count(name):
                return function(*arguments)  # type: ignore[no-any-return]
            if any(word in name for word in ("Free", "Unregister", "Destroy", "Release", "Pop")):
                function(*arguments)
            return (Code(999), 0)

        return call


class Caching:
    """Device memory as torch's allocator gives it out: again at once, in the order of one stream. See `DeviceMemory`.

    All memory that it gives out is still in use by earlier work on that stream, so that a copy which does not wait
    for it is a race.
    """

    device = DEVICE

    def __init__(self, world: "World") -> None:
        self._world = world
        self.stream = world.stream
        self._cached: list[tuple[int, int, list[int]]] = []  # address, size, events
        self._used_on: dict[int, set[int]] = {}
        self.prepared: list[Casting] = []
        self.lent = 0
        """Pieces that are somebody's."""

    def follow(self) -> None:
        """It stays with the stream that it was made for."""

    def allocate(self, forms: Sequence[TorchForm]) -> Allocated:
        with self._world.current():
            return Allocated(self.stream, [self._allocate(*form) for form in forms])

    def _allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        call, size = self._world.call, prod(shape) * dtype.itemsize
        tensor = torch.empty(0, dtype=dtype)
        if not size:
            return tensor.view(shape)
        capacity = round_up(size, 512)
        for block in list(self._cached):
            address, found, events = block
            if found == capacity and all(not int(self._world.api.cuEventQuery(event)[0]) for event in events):
                self._cached.remove(block)
                for event in events:
                    call("cuEventDestroy", event)
                break
        else:
            address = int(call("cuMemAlloc", capacity))
        call("cuMemsetD8Async", address, OLD_WORK, capacity, self.stream)
        root = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        self._used_on[address] = set()
        self.lent += 1
        weakref.finalize(root, self._freed, address, capacity).atexit = False
        made: torch.Tensor = tensor.set_(torch.from_numpy(root).untyped_storage(), 0, shape)  # type: ignore[call-overload]  # strides may be left out
        return made

    def _freed(self, address: int, capacity: int) -> None:
        events: list[int] = []
        self.lent -= 1
        if self._world.lost:
            return
        with self._world.current():
            for stream in self._used_on.pop(address):
                event = self._world.call("cuEventCreate", 0)
                self._world.call("cuEventRecord", event, stream)
                events.append(int(event))
            if not events:
                # What the stream does next in this memory.
                self._world.call("cuMemsetD8Async", address, OLD_WORK, capacity, self.stream)
        self._cached.append((address, capacity, events))

    def current_stream(self) -> int:
        return self._world.using

    def prepare_casts(self, planned: Casting) -> None:
        self.prepared.append(planned)

    def cast(self, casts: Sequence[Cast], stream: int) -> None:
        for source, target in casts:
            formats = (FORMATS[source.dtype], FORMATS[target.dtype])
            error = self._world.faulty.count("cuLaunchKernel") or self._world.emulator.launch_cast(
                formats, source.data_ptr(), target.data_ptr(), source.numel(), stream
            )
            if error:
                raise CudaError(f"cuLaunchKernel failed with {Code(error).name}")

    def record(self, tensor: torch.Tensor) -> None:
        if tensor.nbytes:
            self._used_on[tensor.data_ptr()].add(self._world.using)

    def close(self) -> None:
        for address, _, events in self._cached:
            self._world.call("cuMemFree", address)
            for event in events:
                self._world.call("cuEventDestroy", event)


class Tender(MemorySource):
    """A source that tells the emulator what it is about to write to, and takes its time now and then."""

    def __init__(self, data: bytes, emulator: Emulator, *, alignment: int = 1, seed: int = 0) -> None:
        super().__init__("m", data, alignment=alignment)
        self._emulator = emulator
        self._random = random.Random(seed)

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        if len(buffer):
            address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
            self._emulator.host_access(address, len(buffer), writes=True)
        if self._random.random() < 0.2:
            time.sleep(0.0005)
        return super().read_into(offset, buffer)


class Pinned:
    """Remembers what is pinned for direct reads."""

    def __init__(self) -> None:
        self.memory: dict[int, int] = {}
        """Address -> size."""

    def register(self, address: int, size: int) -> "Unpins":
        self.memory[address] = size
        return Unpins(self, address)


class Unpins(NamedTuple):
    """One registration."""

    pinned: Pinned
    address: int

    def close(self) -> None:
        del self.pinned.memory[self.address]


class Classes(NamedTuple):
    """What a load is made of; a test that plants a fault hands in a subclass."""

    driver: type[CudaDriver] = CudaDriver
    landing: type[CudaLanding] = CudaLanding
    memory: type[Caching] = Caching


def _staging(limit: int | None, chunk: int, concurrency: int, joined: int) -> Staging:
    staging = staging_for(limit, chunk, concurrency)
    return staging._replace(joined=min(joined, staging.slots))


class World:
    """The driver, the caller's two streams, and its memory."""

    def __init__(
        self,
        emulator: Emulator,
        api: Any,
        classes: Classes = Classes(),  # noqa: B008 - immutable
        find_cpus: FindCpus = near_cpus,
    ) -> None:
        self._classes = classes
        self.emulator = emulator
        self.api = api
        self.call("cuInit", 0)
        self._retained = emulator.live("contexts")
        self._device = self.call("cuDeviceGet", 0)
        self._context = self.call("cuDevicePrimaryCtxRetain", self._device)
        self.call("cuCtxPushCurrent", self._context)
        self.stream = int(self.call("cuStreamCreate", NON_BLOCKING))
        """The one that is current when a load is started."""
        self.other = int(self.call("cuStreamCreate", NON_BLOCKING))
        self.using = self.stream
        """The one that is current."""
        self.lost = False
        """The device fails in this test: nothing more can be asked of it."""
        self.memory = classes.memory(self)
        self.arenas = Arenas(find_cpus)
        self.pinned = Pinned()
        """What is registered for direct reads."""
        self.faulty = Faulty(api)
        """What the landing calls the driver through."""
        self._results: list[tuple[str, int, int]] = []

    def call(self, name: str, *arguments: Any) -> Any:
        error, *values = getattr(self.api, name)(*arguments)
        if int(error):
            raise RuntimeError(f"{name}: {error}")
        return values[0] if values else None

    def parts(self, **cuda: Any) -> Parts:
        """What a streamer's loads are made of, so that "cuda:0" is this device; `cuda` replaces fields of its parts."""
        made_of = CudaParts("13.0", lambda: self.faulty, lambda _: self.memory, arenas=self.arenas)
        return Parts(ONE_GPU, made_of._replace(**cuda))

    def streamer(self, **cuda: Any) -> SafetensorsStreamer:
        """Return a streamer to which "cuda:0" is this device; see `parts`."""
        return streamer_of(SafetensorsStreamer, self.parts(**cuda))

    @contextmanager
    def current(self) -> Iterator[None]:
        self.call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self.call("cuCtxPopCurrent")

    def landing(
        self,
        lifecycle: Lifecycle,
        groups: Sequence[Group],
        *,
        limit: int | None = None,
        chunk: int = 4096,
        concurrency: int = 4,
        files: dict[int, DeviceFile] | None = None,
        target: str | None = None,
        lent: LentMemory | None = None,
        joined: int = 1,
    ) -> CudaLanding:
        staging = _staging(limit, chunk, concurrency, joined)
        driver = self._classes.driver(0, self.faulty)
        cpus = self.arenas.find_cpus(driver.pci_address)
        copies = None if lent is None else page_locked(driver, lent)
        direct = None
        if files:
            direct = DirectReads(self._classes.driver(0, self.faulty), files, staging, lifecycle, self.pinned.register)
        make = self._classes.landing if copies is None else partial(LentLanding, copies)
        return make(driver, self.memory, staging, lifecycle, groups, self.arenas, direct, target, cpus)

    def load(
        self,
        files: Iterable[dict[str, Stored]],
        *,
        limit: int | None = None,
        chunk: int = 4096,
        concurrency: int = 4,
        group_bytes: int = 16 << 10,
        alignment: int = 1,
        seed: int = 0,
        source: type[Tender] = Tender,
        direct: dict[int, DeviceFile] | None = None,
        target: str | None = None,
        lent: Callable[[Sequence[MemorySource]], LentMemory] | None = None,
        joined: int = 1,
    ) -> Load:
        staging = _staging(limit, chunk, concurrency, joined)
        large = staging.largest if joined > 1 else 0
        planned, sources = [], []
        for number, file in enumerate(files):
            opened = source(encode(file), self.emulator, alignment=alignment, seed=seed + number)
            tensors = read_header(opened).tensors
            chunk_size = min(chunk, staging.size)
            planned.append(PlannedFile(opened.size, SourceKind.OBJECT, alignment, chunk_size, tensors, large=large))
            sources.append(opened)

        def landing(lifecycle: Lifecycle, groups: Sequence[Group]) -> CudaLanding:
            return self.landing(
                lifecycle,
                groups,
                limit=limit,
                chunk=chunk,
                concurrency=concurrency,
                files=direct,
                target=target,
                lent=None if lent is None else lent(sources),
                joined=joined,
            )

        storage = Storage(LoadConfig(), None, shared=False)
        destination = Destination(DEVICE, planned, Grouping(None, group_bytes), landing)
        load = Load(storage, sources, destination, concurrency)
        load.start()
        return load

    def work_on(self, name: str, tensor: torch.Tensor) -> None:
        """What a caller does: a kernel, on the current stream, that reads the tensor, which may then be dropped."""
        size = tensor.nbytes
        if not size:
            self._results.append((name, 0, 0))
            return
        result = int(self.call("cuMemAlloc", size))
        self.call("cuMemcpyDtoDAsync", result, tensor.data_ptr(), size, self.using)
        self._results.append((name, result, size))

    def results(self) -> list[tuple[str, bytes]]:
        """What came of the work, all of which is done now."""
        self.call("cuCtxSynchronize")
        found = []
        for name, address, size in self._results:
            found.append((name, ctypes.string_at(address, size) if size else b""))
            if size:
                self.call("cuMemFree", address)
        self._results.clear()
        return found

    def close(self) -> list[str]:
        """What is wrong with what has been done here: reports of the emulator, and what is left over."""
        self.call("cuCtxSynchronize")
        self.results()
        self.arenas.release()
        join_ours()  # an arena that is still being page-locked is freed when it is
        wrong = [f"{self.memory.lent} pieces of memory are left"] if self.memory.lent else []
        wrong += [f"{address:#x} is pinned for direct reads" for address in self.pinned.memory]
        self.memory.close()
        self.call("cuStreamDestroy", self.stream)
        self.call("cuStreamDestroy", self.other)
        self.call("cuCtxPopCurrent")
        self.call("cuDevicePrimaryCtxRelease", self._device)
        wrong += [f"{count} {what} are left" for what, count in self.emulator.leaks().items()]
        if self.emulator.live("contexts") > self._retained:
            wrong.append("the context is retained")
        return wrong + [f"{misuse.kind}: {misuse.text}" for misuse in self.emulator.take_misuses()]
