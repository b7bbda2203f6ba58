"""Page-locked memory for groups on the host, from which the caller's `tensor.to("cuda:0")` is fast.

Each group gets a block of torch's own pinned allocator, its tensors are true ones on the block's storage, and when the
last of them dies the block goes back to torch; nothing here uses it again. Only torch knows which non_blocking copies
still read from a block: it marks the block that the storage of the copied tensor came from, and holds it back until
those copies are done. A pool of ours would overwrite it under them; an array laid over the block would never be marked.

What torch gets back it keeps page-locked, for whoever asks next. So without RUNAI_STREAMER_PINNED=1 loads take blocks
only up to a bound, in which all counts that torch has page-locked for them: what is being filled, what the caller
keeps, what pending copies read from, and what lies in torch's cache.
"""

import logging
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final

import torch

from runai_model_streamer.config import PinnedMode
from runai_model_streamer.errors import OutOfMemoryError, PinnedUnavailableError
from runai_model_streamer.pipeline.memory.process_end import allocating
from runai_model_streamer.pipeline.memory.slabs import GroupMemory, Root
from runai_model_streamer.pipeline.plan.groups import Group

_log = logging.getLogger(__name__)

AUTO_BYTES: Final = 1 << 30
"""Most bytes that `auto` has torch page-lock, in all loads of the process together.

A caller that drops tensors as they come needs 128 MiB (`policy.WORKING_SET`), or three of the largest group. With
torch's powers of two, two of the largest matrices of a model of 70 billion parameters fit. Eight processes that load
onto eight GPUs lock 8 GiB, where such a machine has a thousand. A model that stays in host memory would lock all of it.
"""


class PinnedSlab(GroupMemory):
    """One block of torch's, for one group.

    Args:
        block: of bytes; no one else holds it.
        charge: bytes that torch has page-locked for it.
    """

    __slots__ = ("_block",)

    recycled = False

    def __init__(self, block: torch.Tensor, charge: int) -> None:
        super().__init__(block.numel(), charge)
        self._block: torch.Tensor | None = block

    def memory(self) -> memoryview:
        """Its bytes, for reads to land in. They keep the block: one that hangs has its memory until it ends."""
        assert self._block is not None
        return self._block.numpy().data

    def root(self) -> torch.Tensor:
        """The block itself, once: no reference to it is left here."""
        block, self._block = self._block, None
        assert block is not None
        return block

    def watch(self, root: Root, gone: Callable[[object], None]) -> None:
        """Told by the storage, which all views share, be they tensors, arrays or DLPack's.

        Torch keeps a storage's Python object, once there is one, for as long as the storage lives.
        """
        assert isinstance(root, torch.Tensor)
        self.root_ref = weakref.ref(root.untyped_storage(), gone)

    def hide_from_children(self, hide: bool) -> None:
        """Nothing to do: the CUDA driver maps such memory as shared, of which a fork makes no copy to go astray.

        And what forked children see of its mappings is the driver's to say.
        """


class _Death(weakref.ref[Any]):
    """Tells of a block's end."""

    __slots__ = ("address",)
    address: int


class PinnedBlocks:
    """What torch has page-locked for the loads of this process, as far as can be told from the blocks that it gave.

    Torch frees none of them by itself. A block that comes at a new address is one more, therefore, even where as large
    a one went back to torch before: pending copies still read from that, or somebody else has it. The user can have
    torch free them (`torch.accelerator.empty_host_cache()`), which shows in torch's own figures.

    Args:
        locked_by_torch: bytes that torch has page-locked for all purposes; None where it does not say.
    """

    def __init__(self, locked_by_torch: Callable[[], int | None] = lambda: None) -> None:
        self._locked_by_torch = locked_by_torch
        self._lock = threading.Lock()
        self._sizes: dict[int, int] = {}  # address -> bytes of each block that torch ever gave
        self._alive: dict[int, _Death] = {}
        self._returned: Counter[int] = Counter()  # bytes -> how many of that size have gone back to torch
        # Put to by callbacks, which run anywhere, even inside the locked sections here: it takes no lock of ours.
        self._died: SimpleQueue[_Death] = SimpleQueue()
        self._total = 0

    def has_room(self, size: int, bound: int) -> bool:
        """Whether a block of `size` bytes may be had without more than `bound` being locked, as far as can be told."""
        with self._lock:
            self._collect()
            if self._returned[size] > 0 or self._total + size <= bound:
                return True
            return self._forget_freed() and self._total + size <= bound

    def add(self, block: torch.Tensor, size: int, bound: int) -> bool:
        """Count a block that torch gave; whether it is one more, with which `bound` is exceeded."""
        address = block.data_ptr()
        death = _Death(block.untyped_storage(), self._died.put)
        death.address = address
        with self._lock:
            self._collect()
            known = self._sizes.get(address)
            if known is not None and address not in self._alive:
                self._returned[known] -= 1
            # The one before it at this address may have died just now, in another thread, before its callback ran: then
            # that does not count any more.
            self._alive[address] = death
            self._sizes[address] = size
            self._total += size - (known or 0)
            if known is not None or self._total <= bound:
                return False
            return not self._forget_freed() or self._total > bound

    def _forget_freed(self) -> bool:
        """Start over with the blocks in use, if torch has less than is counted; whether it has.

        Which others it freed it does not tell. One that it kept, for a pending copy, counts when it is given out again.
        """
        locked = self._locked_by_torch()
        if locked is None or locked >= self._total:
            return False
        self._sizes = {address: self._sizes[address] for address in self._alive}
        self._returned.clear()
        self._total = sum(self._sizes.values())
        return True

    def _collect(self) -> None:
        while True:
            try:
                death = self._died.get_nowait()
            except Empty:
                return
            if self._alive.get(death.address) is death:
                del self._alive[death.address]
                self._returned[self._sizes[death.address]] += 1


def _locked_by_torch() -> int | None:
    try:
        stats = torch.cuda.host_memory_stats()
    except (AttributeError, RuntimeError):  # of a torch that is older, or built without CUDA
        return None
    locked: int | None = stats.get("allocated_bytes.current")
    return locked


_blocks: Final = PinnedBlocks(_locked_by_torch)


def page_lock(size: int) -> torch.Tensor:
    """Page-locked memory of torch's, from any thread.

    Torch allocates it in the context of the thread's current device or, if that has none, of the first device that has
    one; all devices can copy from it.

    Raises:
        RuntimeError: torch, or CUDA, gives none.
        StreamerError: the process is ending.
    """
    # The thread may be the caller's, in inference mode, with a default device.
    with allocating(), torch.inference_mode(False), torch.no_grad():
        return torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=True)


def page_locking(mode: PinnedMode, limit: int | None) -> "PageLocking | None":
    """How the groups of a load onto the host get page-locked memory; None: they do not.

    Called in the thread that starts the load. CUDA is not initialised here: a process with a CUDA context is lost to
    fork.

    Args:
        mode: the setting.
        limit: bytes that the load's groups may hold at most; None for no limit.

    Raises:
        PinnedUnavailableError: it is required, and cannot be had.
    """
    if mode is PinnedMode.NEVER:
        return None
    required = mode is PinnedMode.ALWAYS
    if not torch.cuda.is_initialized():
        if not required:
            return None
        if not torch.backends.cuda.is_built():
            raise PinnedUnavailableError(
                f"RUNAI_STREAMER_PINNED=1, but the installed torch {torch.__version__} is built without CUDA",
                remedy="install one with it, or set RUNAI_STREAMER_PINNED=auto",
                sep=": ",
            )
        raise PinnedUnavailableError(
            "RUNAI_STREAMER_PINNED=1, but CUDA is not initialised in this process",
            remedy="call torch.cuda.init() before, though not where the process forks later, or set "
            "RUNAI_STREAMER_PINNED=auto",
            sep=": ",
        )
    try:
        # Where no device has a context yet, that of the caller's current device is made, not one of a reader's.
        page_lock(1)
    except RuntimeError as error:
        if required:
            raise PinnedUnavailableError(
                f"RUNAI_STREAMER_PINNED=1, but torch cannot page-lock memory: {error}",
                remedy="RUNAI_STREAMER_PINNED=auto goes on without",
            ) from error
        _log.info("Tensors are loaded into ordinary memory, since torch cannot page-lock any: %s", error)
        return None
    return PageLocking(required, limit, _blocks)


class PageLocking:
    """Page-locked memory for the groups of one load; see `slabs.OtherMemory`.

    Args:
        required: groups get no other; else they do beyond the bound, and once torch gives none.
        limit: bytes that the load's groups may hold at most; None for no limit.
        blocks: what torch has page-locked so far.
    """

    def __init__(self, required: bool, limit: int | None, blocks: PinnedBlocks) -> None:
        self.required = required
        self._bound = AUTO_BYTES if limit is None else min(AUTO_BYTES, limit)
        self._blocks = blocks
        self._ended = False

    def size_for(self, group: Group) -> int | None:
        """Bytes that torch page-locks for the group: the next power of two."""
        size = 1 << (group.footprint - 1).bit_length()
        if self.required:
            return size
        if self._ended or size > self._bound or not self._blocks.has_room(size, self._bound):
            return None
        return size

    def take(self, group: Group, size: int) -> PinnedSlab | None:
        """A block, of which the group's footprint can be used."""
        try:
            block = page_lock(group.footprint)
        except RuntimeError as error:
            if self.required:
                raise OutOfMemoryError(
                    f"no page-locked memory for the {group.footprint} bytes of the group that begins with tensor "
                    f"{group.first_name!r} (RUNAI_STREAMER_PINNED=1): {error}",
                    tensor=group.first_name,
                    remedy="drop tensors as they come, or set RUNAI_STREAMER_PINNED=auto",
                ) from error
            self._end(f"torch gives no more: {error}")
            return None
        if self._blocks.add(block, size, self._bound) and not self.required:
            self._end("copies do not keep up with the load, and hold what they read from")
        return PinnedSlab(block, size)

    def _end(self, reason: str) -> None:
        self._ended = True
        _log.info("The rest of this load goes into memory that is not page-locked: %s", reason)
