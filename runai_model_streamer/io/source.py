"""The seam between storage and everything above it: what a source is, and what wraps one."""

from collections.abc import Iterable
from typing import Protocol

from runai_model_streamer.origins import Origin, SourceKind
from runai_model_streamer.ranges import ByteRange


class OpenFile(Protocol):
    """An open local file, for reads by other means than `Source.read_into`. It belongs to its source."""

    def fileno(self) -> int:
        """The descriptor; the source keeps it open until `Source.close`."""
        ...

    def pieces(self, span: ByteRange) -> Iterable[ByteRange]:
        """Cut the range into the pieces to read it in, at least one. Each comes as soon as it may be read.

        Raises:
            InterruptedReadError: the source was interrupted.
        """
        ...

    def require_unchanged(self, span: ByteRange) -> None:
        """Check, after a read of the range, that the file is unchanged since it was opened.

        Raises:
            SourceChangedError: it was written to; the message names the range.
        """
        ...


class Source(Protocol):
    """One file or object whose bytes can be read from many threads at once.

    A source is opened by the function or class that makes it, so that a missing file is an error there and
    `size` is known. It raises only errors of `runai_model_streamer.errors`, each naming `path`.

    Callers ask a source for what they need to know. They never ask what class it has: it may be wrapped.
    """

    @property
    def path(self) -> str:
        """The path or URL as the user wrote it, for messages."""
        ...

    @property
    def kind(self) -> SourceKind:
        """Whether this is a file or an object."""
        ...

    @property
    def size(self) -> int:
        """Bytes in the file or object when it was opened."""
        ...

    @property
    def alignment(self) -> int:
        """Reads that start and end on multiples of this, into memory aligned alike, are the fastest.

        1 where it does not matter. The end of the file is always a good end.
        """
        ...

    @property
    def streams(self) -> int | None:
        """Reads at once to begin with while reads wait for storage; more are tried later. None: all allowed ones."""
        ...

    @property
    def version(self) -> str | None:
        """What changes when the bytes do: an object's ETag, a file's time of modification. None: not known."""
        ...

    @property
    def verified_by(self) -> str | None:
        """The algorithm of the checksum that the bytes are compared with; None: they are not verified.

        A source that verifies wants each byte to be read once.
        """
        ...

    @property
    def in_order(self) -> bool:
        """Whether a read keeps its buffer and waits until all bytes before it have been read.

        Reads then have to begin in order, and none may wait for memory that a later one holds.
        """
        ...

    def skip_verification(self) -> None:
        """Stop to verify: not every byte will be read once. Idempotent; nothing happens where nothing is verified."""
        ...

    def open_file(self) -> OpenFile | None:
        """The local file behind this source, where reads may go past the source; None where they may not."""
        ...

    def origin(self, offset: int, length: int) -> Origin:
        """Where a read of the range would come from now. It takes microseconds and reads nothing."""
        ...

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        """Fill all of `buffer` with the bytes from `offset` on.

        `buffer` is writable, of single bytes, and belongs to the caller: nothing of it is kept after the call.
        May be called from many threads. When it raises, the buffer's content is undefined.
        Returns where the bytes came from.

        Raises:
            TruncatedError: the source ended first.
            SourceChangedError: the source was written to since it was opened.
            InterruptedReadError: `interrupt` was called.
            ReadError: anything else that went wrong.
        """
        ...

    def interrupt(self) -> None:
        """Make reads in flight, and those to come, end soon. From any thread, and as often as you like.

        A source that cannot cut a read short (a local file) does nothing.
        """
        ...

    def close(self) -> None:
        """Release the file descriptor or connections. No read may be in flight. Idempotent."""
        ...


class SourceWrapper:
    """A source in front of another one; see `Source`. It passes on everything but reads, which a subclass adds.

    Wrappers go around each other in any order.

    Args:
        source: the inner source; closed with this one.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.path, self.kind, self.size, self.alignment = source.path, source.kind, source.size, source.alignment
        self.version = source.version
        self.streams = source.streams

    @property
    def verified_by(self) -> str | None:
        """What the inner source says."""
        return self._source.verified_by

    @property
    def in_order(self) -> bool:
        """What the inner source says."""
        return self._source.in_order

    def skip_verification(self) -> None:
        """Tell the inner source."""
        self._source.skip_verification()

    def open_file(self) -> OpenFile | None:
        """None: reads have to come through this source, unless a subclass can do without."""
        return None

    def origin(self, offset: int, length: int) -> Origin:
        """Ask the inner source."""
        return self._source.origin(offset, length)

    def interrupt(self) -> None:
        """Interrupt the inner source."""
        self._source.interrupt()

    def close(self) -> None:
        """Close the inner source."""
        self._source.close()
