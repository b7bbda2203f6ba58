"""How a pool uses memory without a limit, and where it gets memory from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from runai_model_streamer.pipeline.memory.headroom import available_bytes
from runai_model_streamer.pipeline.memory.slabs import Slab

WORKING_SET: Final = 128 << 20
"""A caller that drops tensors as they arrive needs about this much: `pool.LIVE_GROUPS` groups of the usual size.

Larger values cost CPU time: see benchmarks/RUNS.md.
"""

IDLE_BYTES: Final = 256 << 20

RECYCLE_WAIT: Final = 0.02
"""Seconds. Filling a slab takes less."""


@dataclass(slots=True)
class PoolPolicy:
    """How a pool uses memory without a limit, and where it gets memory from."""

    working_set: int = WORKING_SET
    """Without a limit: bytes of slabs below which reads from the page cache allocate rather than wait for one."""
    idle_bytes: int = IDLE_BYTES
    """Without a limit: the most bytes of idle slabs kept for reuse."""
    recycle_wait: float = RECYCLE_WAIT
    """Seconds that a lease beyond `working_set` waits for a used slab."""
    available: Callable[[], int | None] = available_bytes
    """Returns the bytes of memory that the machine has left; None if unknown."""
    new_slab: Callable[[int], Slab] = Slab
    """Allocates a slab of this capacity, in bytes."""
