"""Torch's allocator of page-locked memory, played by a fake that a machine without a GPU can run.

What it keeps to, as torch 2.13 does: blocks are powers of two; what goes back is kept for whoever asks next, the last
first; a non_blocking copy is noted at the block that its tensor's storage begins at, and a block with such copies is
not given out before they are done. What it adds: memory that has gone back is poisoned, and copies run as late as
possible, so that a block which is used again too early, or copied from without a note, shows in what arrives.
"""

import ctypes
import mmap
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import pytest
import torch

from runai_model_streamer.pipeline.memory import pinned

POISON: Final = 0xDD


class _Block:
    def __init__(self, size: int) -> None:
        self.size = size
        self.mapping = mmap.mmap(-1, size)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.mapping))
        self.root: weakref.ref[Any] | None = None
        self.pending = 0
        """Copies that read from it and are not done."""

    @property
    def in_use(self) -> bool:
        return self.root is not None


class Copy:
    """A non_blocking copy of a tensor to a device."""

    def __init__(self, memory: "PinnedMemory", tensor: torch.Tensor) -> None:
        self._memory = memory
        self._block, self._late = memory.copied_from(tensor)
        self._place = (tensor.data_ptr(), tensor.nbytes)
        # From memory that is not page-locked, CUDA has taken the bytes when the call returns.
        self._bytes = b"" if self._late else ctypes.string_at(*self._place)

    def finish(self) -> bytes:
        """Run it; what arrived."""
        if self._late:
            self._late = False
            self._bytes = ctypes.string_at(*self._place)
            if self._block is not None:
                self._memory.copy_done(self._block)
        return self._bytes


class PinnedMemory:
    """The allocator; `allocate` in place of `pinned.page_lock`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a tensor may die inside it
        self._blocks: list[_Block] = []
        self._cached: dict[int, list[_Block]] = {}
        self._emptied: list[_Block] = []  # kept, so that no later block is at such an address
        self.given = 0
        """How often memory was given."""
        self.refuse_after: int | None = None
        """How often it is given at most."""

    def allocate(self, size: int) -> torch.Tensor:
        """See `pinned.page_lock`."""
        if self.given == self.refuse_after:
            raise RuntimeError("CUDA error: out of memory")
        rounded = 1 << (size - 1).bit_length()
        with self._lock:
            self.given += 1
            cached = self._cached.get(rounded)
            if cached:
                block = cached.pop()
            else:
                block = _Block(rounded)
                self._blocks.append(block)
            root = np.frombuffer(block.mapping, np.uint8, size)
            block.root = weakref.ref(root, lambda _: self._freed(block))
        return torch.from_numpy(root)

    def _freed(self, block: _Block) -> None:
        with self._lock:
            block.root = None
            self._settle(block)

    def _settle(self, block: _Block) -> None:
        if not block.in_use and not block.pending:
            block.mapping[:] = bytes([POISON]) * block.size
            self._cached.setdefault(block.size, []).append(block)

    def copied_from(self, tensor: torch.Tensor) -> tuple[_Block | None, bool]:
        """The block in which a copy is noted, if it is found, and whether it is from page-locked memory at all."""
        begin, place = tensor.untyped_storage().data_ptr(), tensor.data_ptr()
        with self._lock:
            late = any(block.address <= place < block.address + block.size for block in self._blocks)
            for block in self._blocks:
                if block.address == begin and block.in_use:
                    block.pending += 1
                    return block, late
        return None, late

    def copy_done(self, block: _Block) -> None:
        """One of its copies is done."""
        with self._lock:
            block.pending -= 1
            self._settle(block)

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is in page-locked memory that has not gone back."""
        place = tensor.data_ptr()
        return any(block.in_use and block.address <= place < block.address + block.size for block in self._blocks)

    def empty_cache(self) -> None:
        """See `torch.accelerator.empty_host_cache`."""
        with self._lock:
            for blocks in self._cached.values():
                self._emptied += blocks
            self._cached.clear()
            self._blocks = [block for block in self._blocks if block not in self._emptied]

    @property
    def in_use(self) -> int:
        """Bytes of blocks that have not gone back."""
        return sum(block.size for block in self._blocks if block.in_use)

    @property
    def locked(self) -> int:
        """Bytes of all blocks, those in the cache included."""
        return sum(block.size for block in self._blocks)


@contextmanager
def pinned_memory(*, initialized: bool = True) -> Iterator[PinnedMemory]:
    """Loads take page-locked memory from the fake, and nothing of it is left in the end.

    Args:
        initialized: what torch says of CUDA.
    """
    memory = PinnedMemory()
    with pytest.MonkeyPatch.context() as patch:
        # Stands in for torch's allocator, which needs a GPU. What of the package calls it stays whole.
        patch.setattr(pinned, "page_lock", memory.allocate)
        # The process has one account of what torch page-locks, and the fake is no part of it.
        patch.setattr(pinned, "_blocks", pinned.PinnedBlocks())
        patch.setattr(torch.cuda, "is_initialized", lambda: initialized)
        yield memory
    assert memory.in_use == 0
