"""What a load did with the node's cache."""

import threading
from dataclasses import dataclass, replace

from runai_model_streamer.settings.units import size_text


@dataclass(frozen=True, slots=True)
class CacheCounts:
    """Bytes of a load's objects, headers included."""

    bytes_read: int = 0
    """Read from the cache, instead of from the store."""
    bytes_written: int = 0
    """Read from the store, and written to the cache."""
    bytes_left_out: int = 0
    """Read from the store, and not written: the disk was slower than the network, full or not writable, or the load
    needed all CPUs."""
    bytes_no_room: int = 0
    """Of these, what the cache had no room for: `RUNAI_STREAMER_CACHE_SIZE`, or the tenth of the file system that stays
    free."""
    bytes_damaged: int = 0
    """In the cache, but not as they were written. They were read from the store instead, and are in
    `bytes_written` too."""

    def __str__(self) -> str:
        """Return the counts as text."""
        told = [f"{size_text(self.bytes_read)} read from it"]
        for count, what in (
            (self.bytes_written, "added"),
            (self.bytes_left_out - self.bytes_no_room, "not added"),
            (self.bytes_no_room, "not added, for want of room"),
            (self.bytes_damaged, "damaged, and fetched again"),
        ):
            if count:
                told.append(f"{size_text(count)} {what}")
        return ", ".join(told)


class Counter:
    """Counts, in many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts = CacheCounts()
        """The counts so far."""

    def add(self, *, read: int = 0, written: int = 0, left_out: int = 0, no_room: int = 0, damaged: int = 0) -> None:
        """Add bytes to the counts."""
        with self._lock:
            were = self.counts
            self.counts = replace(
                were,
                bytes_read=were.bytes_read + read,
                bytes_written=were.bytes_written + written,
                bytes_left_out=were.bytes_left_out + left_out,
                bytes_no_room=were.bytes_no_room + no_room,
                bytes_damaged=were.bytes_damaged + damaged,
            )
