"""The interface between storage and everything above it: sources, and wrappers around them."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from runai_model_streamer.origins import Origin, SourceKind
from runai_model_streamer.ranges import ByteRange


class OpenFile(Protocol):
    """An open local file, for reads other than `Source.read_into`. It belongs to its source."""

    def fileno(self) -> int:
        """Return the descriptor. The source keeps it open until `Source.close`."""
        ...

    def pieces(self, span: ByteRange) -> Iterable[ByteRange]:
        """Cut the range into pieces to read, at least one. Yield each as soon as it may be read.

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

    Creating a source opens it, so that a missing file is an error there and `size` is known. All its errors are of
    `runai_model_streamer.errors`, and name `path`.

    Callers ask a source for what they need to know. They never check its class, since it may be wrapped.
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
        """Reads that start and end on multiples of this, into memory aligned to it, are the fastest.

        1 if it does not matter. A read may always end at the end of the file.
        """
        ...

    @property
    def local(self) -> Sequence[ByteRange] | None:
        """What of an object was on the node's disk when it was opened, in order: reads of it are those of a file.

        Reads of the rest are written there, and are the fastest if their place in its page is the same in memory as in
        the object. None where nothing is kept, and for a file.
        """
        ...

    @property
    def streams(self) -> int | None:
        """Reads in flight at first, while they wait for storage; more are tried later. None: as many as allowed."""
        ...

    @property
    def way(self) -> str | None:
        """How the bytes have been read so far, and why, for reports; None if there is only one way."""
        ...

    @property
    def version(self) -> str | None:
        """A value that changes with the bytes: an object's ETag, a file's modification time. None if unknown."""
        ...

    @property
    def verified_by(self) -> str | None:
        """The algorithm of the checksum that the bytes are compared with; None: they are not verified.

        A source that verifies needs each byte to be read once.
        """
        ...

    @property
    def in_order(self) -> bool:
        """Whether a read keeps its buffer and waits until all bytes before it have been read.

        Reads then have to begin in order, and none may wait for memory that a later one holds.
        """
        ...

    def skip_verification(self) -> None:
        """Stop verifying, since not every byte will be read once. Idempotent. No effect if nothing is verified."""
        ...

    def open_file(self) -> OpenFile | None:
        """Return the local file behind this source; None if reads have to go through the source."""
        ...

    def origin(self, offset: int, length: int) -> Origin:
        """Return where a read of the range would come from now. This takes microseconds and reads nothing."""
        ...

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        """Fill all of `buffer` with the bytes from `offset` on.

        `buffer` is writable, of single bytes, and belongs to the caller: no reference is kept after the call. Many
        threads may call it. If it raises, the buffer's content is undefined.

        Returns:
            Where the bytes came from.

        Raises:
            TruncatedError: the source ended first.
            SourceChangedError: the source was written to since it was opened.
            InterruptedReadError: `interrupt` was called.
            ReadError: any other failure.
        """
        ...

    def interrupt(self) -> None:
        """Make current and later reads end soon. Idempotent. Any thread may call it.

        A source that cannot cut a read short (a local file) does nothing.
        """
        ...

    def close(self) -> None:
        """Release the file descriptor or connections. No read may be in flight. Idempotent."""
        ...


class SourceWrapper:
    """A source around another one; see `Source`. It passes on everything except reads, which a subclass adds.

    Wrappers can be stacked in any order.

    Args:
        source: the inner source; closed with this one.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.path, self.kind, self.size, self.alignment = source.path, source.kind, source.size, source.alignment
        self.version = source.version
        self.streams = source.streams

    @property
    def local(self) -> Sequence[ByteRange] | None:
        """The inner source's value."""
        return self._source.local

    @property
    def way(self) -> str | None:
        """The inner source's value."""
        return self._source.way

    @property
    def verified_by(self) -> str | None:
        """The inner source's value."""
        return self._source.verified_by

    @property
    def in_order(self) -> bool:
        """The inner source's value."""
        return self._source.in_order

    def skip_verification(self) -> None:
        """Stop verifying in the inner source."""
        self._source.skip_verification()

    def open_file(self) -> OpenFile | None:
        """Return None: reads have to go through this source. A subclass may allow them."""
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


class LocalCopy(SourceWrapper):
    """A local file in place of an object; see `Source`. Its path, for messages, is the object's URL.

    Its version is unknown: other ranks may read the object itself, whose version is an ETag.

    Args:
        source: the local file; closed with this one.
        path: the object's URL.
    """

    def __init__(self, source: Source, path: str) -> None:
        super().__init__(source)
        self.path = path
        self.version = None

    def open_file(self) -> OpenFile | None:
        """Return the local file."""
        return self._source.open_file()

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        """Read the local file."""
        return self._source.read_into(offset, buffer)
