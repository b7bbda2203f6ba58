"""Where bytes come from: the kinds of source, and of origin."""

from enum import Enum


class SourceKind(Enum):
    """What lies behind a source; the defaults for concurrency and chunk size depend on it."""

    FILE = "file"
    OBJECT = "object"


class Origin(Enum):
    """Where the bytes of one read came from."""

    PAGE_CACHE = "page cache"
    """Copied from memory: more such reads at once than CPUs only get in each other's way."""
    BUFFERED = "buffered"
    """Through the page cache, without knowing whether they were in it."""
    DISK = "disk"
    """From a local disk, past the page cache."""
    OBJECT = "object storage"
    RANK = "another rank"
    """Read by another process, which has sent it."""
