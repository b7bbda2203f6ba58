"""Computes the page-locked host memory that a load onto a GPU stages bytes in: size and number of its slots."""

from typing import Final, NamedTuple

from runai_model_streamer.errors import RunaiStreamerMemoryLimitException
from runai_model_streamer.ranges import HUGE_PAGE, PAGE, round_down

MIN_SLOTS: Final = 2
"""Minimum number of slots: a reader fills one while the other is copied."""

MAX_BYTES: Final = 256 << 20
"""Maximum bytes of all slots, without a limit or with limit 0. Chunks above half of it are cut."""

LARGE_SLOT: Final = 32 << 20
"""Maximum bytes of a slot that is larger than a chunk, for reads that grow with the rate of the storage.

A read takes 170 microseconds of our Python and of the driver's, nearly all of them with the GIL. In reads of 8 MiB they
bound a load to 58 GB/s, which a page cache reaches, and leave the caller's own Python no time (benchmarks/RUNS.md).
"""

LARGE_SLOTS: Final = 4
"""Minimum number of slots of reads that have grown."""

OBJECT_FACTOR: Final = 2
"""Times `MAX_BYTES` for objects: 64 slots of 8 MiB, so that 64 connections of 40 to 90 MB/s bring 2.6 to 5.8 GB/s to
each GPU of a node."""


class Staging(NamedTuple):
    """The page-locked memory of a load."""

    size: int
    """Bytes of a slot; whole pages."""
    slots: int
    """Number of slots; at least two."""
    kept: int
    """Maximum bytes that the process keeps page-locked after the load."""
    joined: int = 1
    """Maximum number of adjacent slots that one read takes, after reads have grown."""

    @property
    def bytes(self) -> int:
        """Bytes of all slots."""
        return self.size * self.slots

    @property
    def largest(self) -> int:
        """Maximum bytes of one read."""
        return self.size * self.joined

    def reads_at_once(self, length: int) -> int:
        """Return how many reads of so many bytes the slots have room for."""
        return self.slots // max(-(-length // self.size), 1)

    def fits(self, size: int) -> bool:
        """Return whether an arena of this size holds all slots, and is within the load's limit."""
        return self.bytes <= size <= max(self.kept, self.bytes)


def staging_for(
    limit: int | None, chunk: int, concurrency: int, max_bytes: int = MAX_BYTES, *, grows: bool = False
) -> Staging:
    """Return the slots of a load: one for each read in flight and two being copied, if the limit allows that.

    More slots would not help, since a copy over PCIe usually takes less time than the read before it.

    Args:
        limit: bytes of all slots together; None for `max_bytes`, 0 for the minimum that double-buffers.
        chunk: bytes of a read, whole pages. If two chunks exceed the limit, reads are smaller.
        concurrency: reads in flight at once.
        max_bytes: maximum bytes of all slots, if `limit` does not bound them.
        grows: whether reads may become larger than a chunk. Slots are then as large as `max_bytes` and the limit have
            room for, up to `LARGE_SLOT`, but as many as they would be otherwise. Several of them are joined for a read
            that has grown beyond that, since where reads are fast, few large ones take less Python than many.

    Raises:
        RunaiStreamerMemoryLimitException: the limit is less than two pages.
    """
    wanted = max(concurrency, 1) + 2
    kept = max_bytes if limit is None else limit
    if limit is None:
        limit = max_bytes
    elif limit == 0:
        limit, wanted, grows = max_bytes, MIN_SLOTS, False
    elif limit < MIN_SLOTS * PAGE:
        raise RunaiStreamerMemoryLimitException(
            f"RUNAI_STREAMER_MEMORY_LIMIT={limit} is too small to stage reads for the GPU",
            remedy=f"set it to {MIN_SLOTS * PAGE} or more, or to 0 for what two reads need",
        )
    size = min(chunk, round_down(limit // MIN_SLOTS, PAGE))
    slots = min(wanted, limit // size)
    if grows:
        size = max(size, min(round_down(min(limit, max_bytes) // slots, HUGE_PAGE), LARGE_SLOT))
        joined = max(min(LARGE_SLOT // size, slots // LARGE_SLOTS), 1)
        return Staging(size, slots, kept, joined)
    return Staging(size, slots, kept)
