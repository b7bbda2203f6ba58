"""The one seam between storage and everything above it."""

from typing import Protocol

from runai_model_streamer.origins import Origin, SourceKind


class Source(Protocol):
    """One file or object whose bytes can be read from many threads at once.

    A source is opened by the function or class that makes it, so that a missing file is an error there and
    `size` is known. It raises only errors of `runai_model_streamer.errors`, each naming `path`.
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

    def origin(self, offset: int, length: int) -> Origin:
        """Where a read of the range would come from now; told without reading, and in microseconds."""
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


class SourceInFront:
    """What a source that stands in front of another has of it; see `Source`. Its reads are its own.

    Args:
        source: the inner source; closed with this one.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.path, self.kind, self.size, self.alignment = source.path, source.kind, source.size, source.alignment

    def origin(self, offset: int, length: int) -> Origin:
        """See `Source.origin`."""
        return self._source.origin(offset, length)

    def interrupt(self) -> None:
        """See `Source.interrupt`."""
        self._source.interrupt()

    def close(self) -> None:
        """See `Source.close`."""
        self._source.close()
