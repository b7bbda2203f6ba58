"""Page-locked host memory for groups, which makes the caller's `tensor.to("cuda:0")` fast.

Each group gets a block from torch's pinned allocator. Its tensors share the block's storage, and the block returns to
torch when the last of them dies. The pool never reuses a block itself, because only torch knows which non_blocking
copies still read from it: torch marks the block behind a copied tensor's storage and keeps it until the copies are
done. A pool of ours would overwrite the block under those copies, and an array over the block would never be marked.

Torch keeps returned blocks page-locked for the next request. So, unless RUNAI_STREAMER_PINNED=1, loads take blocks only
up to a bound. The bound counts everything that torch has page-locked for them: blocks being filled, blocks that the
caller keeps, blocks that pending copies read from, and blocks in torch's cache.
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
"""The most bytes that `auto` lets torch page-lock, for all loads of the process together.

A caller that drops tensors as they arrive needs 128 MiB (`policy.WORKING_SET`), or three times the largest group. Torch
rounds up to powers of two, so 1 GiB holds two of the largest matrices of a 70B model. Eight processes, one for each of
eight GPUs, lock 8 GiB; such a machine has about 1,000. A model that stays in host memory would use the whole bound.
"""


class PinnedSlab(GroupMemory):
    """One pinned block from torch, for one group.

    Args:
        block: a tensor of bytes; the slab holds the only reference.
        charge: the bytes that torch page-locked for it.
    """

    __slots__ = ("_block",)

    recycled = False

    def __init__(self, block: torch.Tensor, charge: int) -> None:
        super().__init__(block.numel(), charge)
        self._block: torch.Tensor | None = block

    def memory(self) -> memoryview:
        """Return its bytes, for reads to land in. The view keeps the block alive, so a read that hangs stays safe."""
        assert self._block is not None
        return self._block.numpy().data

    def root(self) -> torch.Tensor:
        """Return the block itself, once: the slab drops its own reference."""
        block, self._block = self._block, None
        assert block is not None
        return block

    def watch(self, root: Root, gone: Callable[[object], None]) -> None:
        """Watch the block's storage, which all views share: tensors, arrays and DLPack capsules.

        Torch keeps a storage's Python object alive, once it exists, for as long as the storage lives.
        """
        assert isinstance(root, torch.Tensor)
        self.root_ref = weakref.ref(root.untyped_storage(), gone)

    def hide_from_children(self, hide: bool) -> None:
        """Do nothing: the CUDA driver maps pinned memory as shared, so a fork does not copy its pages.

        The driver also decides what forked children see of its mappings.
        """


class _Death(weakref.ref[Any]):
    """A weak reference that reports a block's death."""

    __slots__ = ("address",)
    address: int


class PinnedBlocks:
    """The memory that torch has page-locked for this process's loads, as seen from the blocks it handed out.

    Torch never frees a block on its own. So a block at a new address adds to the total, even if a block of that size
    went back to torch before: pending copies still read from that one, or other code uses it. The user can make torch
    free them (`torch.accelerator.empty_host_cache()`); torch's own statistics show that.

    Args:
        locked_by_torch: returns the bytes that torch has page-locked for all purposes; None if it does not report them.
    """

    def __init__(self, locked_by_torch: Callable[[], int | None] = lambda: None) -> None:
        self._locked_by_torch = locked_by_torch
        self._lock = threading.Lock()
        self._sizes: dict[int, int] = {}  # address -> bytes of each block that torch ever gave
        self._alive: dict[int, _Death] = {}
        self._returned: Counter[int] = Counter()  # bytes -> how many of that size have gone back to torch
        # Callbacks put here. They may run inside the locked sections below, so the queue must take no lock of ours.
        self._died: SimpleQueue[_Death] = SimpleQueue()
        self._total = 0

    def has_room(self, size: int, bound: int) -> bool:
        """Return whether a block of `size` bytes should fit within `bound`."""
        with self._lock:
            self._collect()
            if self._returned[size] > 0 or self._total + size <= bound:
                return True
            return self._forget_freed() and self._total + size <= bound

    def add(self, block: torch.Tensor, size: int, bound: int) -> bool:
        """Count a block from torch. Return whether it is new and takes the total beyond `bound`."""
        address = block.data_ptr()
        death = _Death(block.untyped_storage(), self._died.put)
        death.address = address
        with self._lock:
            self._collect()
            known = self._sizes.get(address)
            if known is not None and address not in self._alive:
                self._returned[known] -= 1
            # The previous block at this address may have died in another thread before its callback ran. Replacing its
            # entry makes `_collect` ignore that late callback.
            self._alive[address] = death
            self._sizes[address] = size
            self._total += size - (known or 0)
            if known is not None or self._total <= bound:
                return False
            return not self._forget_freed() or self._total > bound

    def _forget_freed(self) -> bool:
        """Count only the blocks in use, if torch has less page-locked than the total. Return whether it has.

        Torch does not report which others it freed. One that it kept for a pending copy counts again when handed out.
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
    except (AttributeError, RuntimeError):  # an older torch, or one built without CUDA
        return None
    locked: int | None = stats.get("allocated_bytes.current")
    return locked


_blocks: Final = PinnedBlocks(_locked_by_torch)


def page_lock(size: int) -> torch.Tensor:
    """Allocate `size` bytes of page-locked memory from torch. Any thread may call it.

    Torch allocates in the context of the thread's current device or, if that has none, of the first device that has
    one. All devices can copy from the memory.

    Raises:
        RuntimeError: torch or CUDA cannot allocate it.
        StreamerError: the process is ending.
    """
    # The calling thread may be in inference mode, or have a default device.
    with allocating(), torch.inference_mode(False), torch.no_grad():
        return torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=True)


def page_locking(mode: PinnedMode, limit: int | None, bound: int = AUTO_BYTES) -> "PageLocking | None":
    """Return the page-locking for a load onto the host, or None where its groups use ordinary memory.

    The thread that starts the load calls this. It never initialises CUDA: a process with a CUDA context can no longer
    fork safely.

    Args:
        mode: the setting.
        limit: the most bytes that the load's groups may hold; None for no limit.
        bound: the most bytes that `auto` has torch page-lock.

    Raises:
        PinnedUnavailableError: page-locked memory is required and unavailable.
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
        # If no device has a context yet, create it here, on the caller's current device, not later in a reader.
        page_lock(1)
    except RuntimeError as error:
        if required:
            raise PinnedUnavailableError(
                f"RUNAI_STREAMER_PINNED=1, but torch cannot page-lock memory: {error}",
                remedy="RUNAI_STREAMER_PINNED=auto goes on without",
            ) from error
        _log.info("Tensors are loaded into ordinary memory, since torch cannot page-lock any: %s", error)
        return None
    return PageLocking(required, bound if limit is None else min(bound, limit), _blocks)


class PageLocking:
    """Page-locked memory for the groups of one load; see `slabs.OtherMemory`.

    Args:
        required: groups get only page-locked memory. Otherwise they get slabs beyond the bound, or once torch fails.
        bound: the most bytes that torch may have page-locked. It has no effect if `required`.
        blocks: the memory that torch has page-locked so far.
    """

    def __init__(self, required: bool, bound: int, blocks: PinnedBlocks) -> None:
        self.required = required
        self._bound = bound
        self._blocks = blocks
        self._ended = False

    def size_for(self, group: Group) -> int | None:
        """Return the bytes that torch page-locks for the group: the next power of two."""
        size = 1 << (group.footprint - 1).bit_length()
        if self.required:
            return size
        if self._ended or size > self._bound or not self._blocks.has_room(size, self._bound):
            return None
        return size

    def take(self, group: Group, size: int) -> PinnedSlab | None:
        """Allocate a block with room for the group's footprint."""
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
