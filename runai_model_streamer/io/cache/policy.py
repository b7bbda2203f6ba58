"""The constants of the cache, which tests change."""

from typing import Final, NamedTuple


class CachePolicy(NamedTuple):
    """How a load writes to the cache, and how long it waits for others."""

    piece: int = 4 << 20
    """Bytes of a piece at most; a multiple of the page. A read of a part of one whose bytes have to be compared reads
    all of it."""
    beginning: int = 256 << 10
    """Bytes that the store sends when an object is opened."""
    buffers: int = 128
    """Pieces that wait for the disk at most, in memory of their own that is taken as they come: 512 MiB. Connections
    that begin together end together, each with two pieces: with 16 buffers half of what 32 brought was left out,
    although the disk had nothing to do meanwhile."""
    overflow: float = 0.1
    """Part of the time of reads from the store, at most, that their threads spend on the cache before pieces that find
    no buffer free are left out."""
    threads: int = 4
    """Threads that write."""
    patience: float = 60.0
    """Seconds that a read waits for another process that fetches the same bytes, before it fetches them itself."""
    flush: float = 2.0
    """Seconds that the end of a load waits for the disk at most."""
    first_pause: float = 0.001
    longest_pause: float = 0.032
    """Seconds between two looks at what another process has locked."""


USUAL: Final = CachePolicy()
