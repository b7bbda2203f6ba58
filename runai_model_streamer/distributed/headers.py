"""Opening the files of a shared load: one rank reads each header, and sends it to the others."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import orjson

from runai_model_streamer.errors import TruncatedError
from runai_model_streamer.io.s3.source import PREFIX_BYTES
from runai_model_streamer.io.source import Source, SourceWrapper
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.origins import Origin, SourceKind

_FRAME: Final = 8
"""Bytes of a length in front of what it is the length of."""


class OpenedFile(NamedTuple):
    """What the rank that opened a file has found."""

    file: int
    """Index of the file."""
    size: int
    version: str | None
    """As `Source.version` says."""
    head: bytes
    """The file's first bytes, as far as they were looked at."""


class TapedSource(SourceWrapper):
    """Keeps what is read of the front of a source, from byte 0 on."""

    def __init__(self, source: Source, beginning: bytes) -> None:
        super().__init__(source)
        self.source = source
        self.beginning = beginning
        """Bytes that came with the opening."""
        self.tape = bytearray()

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        """Read from the inner source, and keep the bytes that continue the front."""
        origin = self.source.read_into(offset, buffer)
        if offset == len(self.tape):
            self.tape += buffer
        return origin


class HeadSource(SourceWrapper):
    """The first bytes of a source, which another rank has sent. Nothing is read from the source itself."""

    def __init__(self, source: Source, head: bytes) -> None:
        super().__init__(source)
        self._head = head

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        """Fill the buffer with what the other rank has sent.

        Raises:
            TruncatedError: it has sent less.
        """
        found = self._head[offset : offset + len(buffer)]
        if len(found) < len(buffer):
            raise TruncatedError(f"of its header, another rank has sent {len(self._head)} bytes", where=self.path)
        buffer[:] = found
        return Origin.BUFFERED


class TapingStorage:
    """Opens files so that what is read of their headers can be sent to others; see `pipeline.opening.Opener`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def open(self, path: str) -> TapedSource:
        """The source behind a path, which keeps its header's bytes."""
        source = self._storage.open(path)
        try:
            return TapedSource(source, _beginning_of(source))
        except BaseException:
            source.close()
            raise

    def interrupt(self) -> None:
        """Interrupt the storage."""
        self._storage.interrupt()


def _beginning_of(source: Source) -> bytes:
    """The first bytes of an object that has just been opened: they came with the answer."""
    if source.kind is not SourceKind.OBJECT:
        return b""
    beginning = bytearray(min(PREFIX_BYTES, source.size))
    source.read_into(0, memoryview(beginning))
    return bytes(beginning)


def pack(found: Sequence[OpenedFile]) -> bytes:
    """As bytes, for the others."""
    index = orjson.dumps([(known.file, known.size, known.version, len(known.head)) for known in found])
    return b"".join([len(index).to_bytes(_FRAME, "little"), index, *(known.head for known in found)])


def unpack(data: bytes) -> Iterator[OpenedFile]:
    """What `pack` has packed."""
    position = _FRAME + int.from_bytes(data[:_FRAME], "little")
    for file, size, version, length in orjson.loads(data[_FRAME:position]):
        yield OpenedFile(file, size, version, data[position : position + length])
        position += length
