"""Where bytes come from: the kinds of source, and the one list of origins, with what each counts as."""

from collections.abc import Container
from enum import Enum
from typing import Final, Self

MEMORY_SPEED: Final = 1.5e9
"""Bytes per second of one read above which it was a copy from memory, where the origin does not tell."""


class SourceKind(Enum):
    """What lies behind a source; the defaults for concurrency and chunk size depend on it."""

    FILE = "file"
    OBJECT = "object"


class Origin(Enum):
    """Where the bytes of one read came from. The value is its name in traces."""

    PAGE_CACHE = "page cache", "page_cache", False, "copy from the page cache", "#56B4E9"
    """Copied from memory: more such reads at once than CPUs only get in each other's way."""
    BUFFERED = "buffered", "buffered", False, "read through the page cache", "#6A5ACD"
    """Through the page cache, without knowing whether they were in it."""
    DISK = "disk", "disk", True, "read from disk", "#0072B2"
    """From a local disk, past the page cache."""
    OBJECT = "object storage", "object_storage", True, "read from object storage", "#009E73"
    RANK = "another rank", "other_ranks", True, "receive from another rank", "#999933"
    """Read by another process, which has sent it."""

    def __new__(cls, name: str, *_: object) -> Self:
        """Let the first entry be the value."""
        made = object.__new__(cls)
        made._value_ = name
        return made

    def __init__(self, _: str, field: str, waits_for_storage: bool, act: str, colour: str) -> None:
        self.field = field
        """The name of its field in the reports `BytesFrom` and `ReaderSeconds`."""
        self.waits_for_storage = waits_for_storage
        """Whether a read waits for storage or another process, so that more readers than CPUs help."""
        self.act = act
        """What a thread does meanwhile, for plots."""
        self.colour = colour
        """Of that, in plots."""


def farthest(origins: Container[Origin]) -> Origin:
    """Return the most distant of several origins, at least one."""
    order = (Origin.RANK, Origin.OBJECT, Origin.DISK, Origin.BUFFERED, Origin.PAGE_CACHE)
    return next(origin for origin in order if origin in origins)
