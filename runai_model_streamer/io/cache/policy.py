"""The constants of the cache, which tests change."""

from typing import Final, NamedTuple


class CachePolicy(NamedTuple):
    """How a load writes to the cache, and how long it waits for others."""

    piece: int = 4 << 20
    """Bytes of a piece at most; a multiple of the page. A read of a part of one whose bytes have to be compared reads
    all of it."""
    beginning: int = 256 << 10
    """Bytes that the store sends when an object is opened."""
    free: int = 32 << 20
    """Bytes of a load that are written in any case. By then it is known how long it takes."""
    wait: float = 0.1
    """Part of the time of reads from the store, at most, that their threads spend on the cache before bytes are left
    out. A quarter more connections than needed are kept, so the network does not wait for these."""
    cpu: float = 0.05
    """Part of the CPU time of these reads, at most, that the cache takes where the CPUs are busy."""
    saved: float = 0.4
    """Part of the time and of the CPU time that reads from the cache would have taken from the store, that may be spent
    on it besides, so that a load of which a part is there adds more. On two CPUs it took a quarter to two fifths longer
    than one without a cache (benchmarks/RUNS.md): a write costs the load more than its own thread's time."""
    busy: float = 1.0
    """Seconds that threads wait for a CPU, for each on one, from which on the CPUs are busy."""
    patience: float = 60.0
    """Seconds that a read waits for another process that fetches the same bytes, before it fetches them itself."""
    first_pause: float = 0.001
    longest_pause: float = 0.032
    """Seconds between two looks at what another process has locked."""


USUAL: Final = CachePolicy()
