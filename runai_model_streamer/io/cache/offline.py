"""An object of which only the cache is read."""

from collections.abc import Sequence
from typing import Final, NoReturn

from runai_model_streamer.errors import StorageUnreachableError, TruncatedError, Where
from runai_model_streamer.io.cache.journal import About
from runai_model_streamer.origins import Origin, SourceKind
from runai_model_streamer.ranges import ByteRange

VARIABLE: Final = "RUNAI_STREAMER_CACHE_OFFLINE"


class OfflineObject:
    """What stands for the store's object; see `Source`. Each of its reads is an error, since it would be a request.

    Args:
        path: the URL, for messages.
        about: what object it is.
    """

    kind = SourceKind.OBJECT
    alignment = 1
    streams: int | None = None
    way: str | None = None
    verified_by: str | None = None
    in_order = False
    local: Sequence[ByteRange] | None = None

    def __init__(self, path: str, about: About) -> None:
        self.path = path
        self.size = about.size
        self.version: str | None = about.version

    def skip_verification(self) -> None:
        """Do nothing: nothing is verified."""

    def open_file(self) -> None:
        """Return None."""

    def origin(self, offset: int, length: int) -> Origin:  # noqa: ARG002 - the same for the whole object
        """Return `Origin.OBJECT`."""
        return Origin.OBJECT

    def read_into(self, offset: int, buffer: memoryview) -> NoReturn:
        """Raise `StorageUnreachableError`."""
        span = ByteRange(offset, offset + len(buffer))
        if span.end > self.size:
            raise TruncatedError(
                f"{span} cannot be read: the object has {self.size} bytes", where=Where(self.path, span)
            )
        raise StorageUnreachableError(
            f"{span} are not in the node's cache, and {VARIABLE} is set",
            where=Where(self.path, span),
            remedy=f"load it once where the store can be reached, or unset {VARIABLE}",
        )

    def interrupt(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
