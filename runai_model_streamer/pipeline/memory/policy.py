"""How a pool uses memory where no limit tells, and where it gets memory from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from runai_model_streamer.pipeline.memory.headroom import available_bytes
from runai_model_streamer.pipeline.memory.slabs import Slab

WORKING_SET: Final = 128 << 20
"""A caller that drops tensors as they arrive needs about this much: `pool.LIVE_GROUPS` groups of the usual size.

Warm 4 GB on 2 CPUs take 1.4 times the CPU time of a bare preadv loop with 128 MiB, 1.75 times with 384 MiB.
"""

IDLE_BYTES: Final = 256 << 20

RECYCLE_WAIT: Final = 0.02
"""Longer than filling a slab takes."""


@dataclass(slots=True)
class PoolPolicy:
    """How a pool uses memory where no limit tells, and where it gets memory from."""

    working_set: int = WORKING_SET
    """Without a limit: bytes of slabs that copies from memory may take before they wait for a used slab."""
    idle_bytes: int = IDLE_BYTES
    """Without a limit: bytes of idle slabs that are kept for reuse, at most."""
    recycle_wait: float = RECYCLE_WAIT
    """Seconds that a lease beyond `working_set` waits for a used slab."""
    available: Callable[[], int | None] = available_bytes
    """Returns the bytes of memory that the machine has left; None if that is not known."""
    new_slab: Callable[[int], Slab] = Slab
    """Makes a slab of this capacity."""
