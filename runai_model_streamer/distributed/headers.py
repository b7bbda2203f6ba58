"""Opens the files of a shared load: one rank reads each header, and sends it to the others."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import orjson

from runai_model_streamer.errors import TruncatedError
from runai_model_streamer.io.objects.source import PREFIX_BYTES
from runai_model_streamer.io.source import Source, SourceWrapper
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.origins import Origin, SourceKind

_FRAME: Final = 8
"""Bytes of the length that precedes a packed part."""


class OpenedFile(NamedTuple):
    """What the rank that opened a file knows of it."""

    file: int
    """Index of the file."""
    size: int
    version: str | None
    """`Source.version`."""
    head: bytes
    """The file's first bytes, as far as they were read."""


class TapedSource(SourceWrapper):
    """A source that records what is read of its beginning, from byte 0 on."""

    def __init__(self, source: Source, beginning: bytes) -> None:
        super().__init__(source)
        self.source = source
        self.beginning = beginning
        """The bytes that opening the source fetched."""
        self.tape = bytearray()

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        """Read from the inner source, and record the bytes that continue the beginning."""
        origin = self.source.read_into(offset, buffer)
        if offset == len(self.tape):
            self.tape += buffer
        return origin


class HeadSource(SourceWrapper):
    """The first bytes of a source, as another rank sent them. It reads nothing from the source itself."""

    def __init__(self, source: Source, head: bytes) -> None:
        super().__init__(source)
        self._head = head

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        """Fill the buffer with the bytes that the other rank sent.

        Raises:
            TruncatedError: it sent fewer.
        """
        found = self._head[offset : offset + len(buffer)]
        if len(found) < len(buffer):
            raise TruncatedError(f"another rank sent only {len(self._head)} bytes of its header", where=self.path)
        buffer[:] = found
        return Origin.BUFFERED


class TapingStorage:
    """Opens files, as a `pipeline.opening.Opener`, and records their headers, to be sent to other ranks."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def open(self, path: str) -> TapedSource:
        """Open a path. The source records its header's bytes."""
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
    """Return the first bytes of an object that was just opened: opening fetched them."""
    if source.kind is not SourceKind.OBJECT:
        return b""
    beginning = bytearray(min(PREFIX_BYTES, source.size))
    source.read_into(0, memoryview(beginning))
    return bytes(beginning)


def versions(paths: Sequence[str], sources: Mapping[int, Source], node: str) -> dict[str, str]:
    """Return facts that all ranks with the same local files share. Objects need none: requests name the ETag.

    Args:
        paths: the files.
        sources: by the index of their path.
        node: of this rank.
    """
    facts = {}
    for index, path in enumerate(paths):
        source = sources[index]
        if source.kind is SourceKind.FILE:
            facts[f"size of {path}"] = str(source.size)
            if source.version is not None:  # copies on other nodes may have other times
                facts[f"modification of {path} on {node}"] = source.version
    return facts


def pack(found: Sequence[OpenedFile]) -> bytes:
    """Encode what this rank has opened, for the others."""
    index = orjson.dumps([(known.file, known.size, known.version, len(known.head)) for known in found])
    return b"".join([len(index).to_bytes(_FRAME, "little"), index, *(known.head for known in found)])


def unpack(data: bytes) -> Iterator[OpenedFile]:
    """Decode what `pack` has encoded."""
    position = _FRAME + int.from_bytes(data[:_FRAME], "little")
    for file, size, version, length in orjson.loads(data[_FRAME:position]):
        yield OpenedFile(file, size, version, data[position : position + length])
        position += length
