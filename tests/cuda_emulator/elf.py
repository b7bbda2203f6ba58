"""What a shared library needs of others, and what it gives: read from its ELF file (64 bits, little-endian)."""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_DYNAMIC_SEGMENT: Final = 2
_LOADED_SEGMENT: Final = 1
_NEEDED, _STRINGS, _SYMBOLS, _VERSIONS, _VERSIONS_NEEDED, _COUNT_OF_NEEDED = 1, 5, 6, 0x6FFFFFF0, 0x6FFFFFFE, 0x6FFFFFFF
_GNU_HASH: Final = 0x6FFFFEF5
_WEAK: Final = 2
_SYMBOL: Final = struct.Struct("<IBBHQQ")


@dataclass(frozen=True, slots=True)
class Import:
    """A symbol that some other library has to define."""

    name: str
    version: str | None
    """The node that it has to have there."""
    library: str | None
    """Which library that is, if it has a version."""


class SharedLibrary:
    """The dynamic part of a shared library.

    Raises:
        ValueError: the file is no such library.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self._data[:6] != b"\x7fELF\x02\x01":
            raise ValueError(f"{path} is not a shared library of 64 bits")
        self._segments = list(self._program_headers())
        self._dynamic: list[tuple[int, int]] = []
        for kind, offset, _, size in self._segments:
            if kind == _DYNAMIC_SEGMENT:
                self._dynamic = list(struct.iter_unpack("<qQ", self._data[offset : offset + size // 16 * 16]))
        if not self._dynamic:
            raise ValueError(f"{path} has no dynamic section")
        self._strings = self._place(_STRINGS)
        self.needed: list[str] = [self._text(value) for tag, value in self._dynamic if tag == _NEEDED]
        """The libraries that the loader loads with it."""
        self.imports: set[Import] = set()
        self.defined: set[str] = set()
        self._read_symbols()

    def _program_headers(self) -> Iterator[tuple[int, int, int, int]]:
        """Kind, offset in the file, address and size in the file of each segment."""
        (start,) = struct.unpack_from("<Q", self._data, 32)
        size, count = struct.unpack_from("<HH", self._data, 54)
        for index in range(count):
            kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", self._data, start + index * size)
            yield kind, offset, address, length

    def _place(self, tag: int) -> int:
        """Where in the file that lies which an entry of the dynamic section has the address of; 0: no such entry."""
        for found, value in self._dynamic:
            if found == tag:
                for kind, offset, address, size in self._segments:
                    if kind == _LOADED_SEGMENT and address <= value < address + size:
                        return offset + value - address
        return 0

    def _text(self, index: int) -> str:
        start = self._strings + index
        return self._data[start : self._data.find(b"\0", start)].decode()

    def _versions_needed(self) -> dict[int, tuple[str, str]]:
        """By its number: a version node, and the library that it is of."""
        found: dict[int, tuple[str, str]] = {}
        at = self._place(_VERSIONS_NEEDED)
        for _ in range(dict(self._dynamic).get(_COUNT_OF_NEEDED, 0)):
            _, count, library, first, after = struct.unpack_from("<HHIII", self._data, at)
            entry = at + first
            for _ in range(count):
                _, _, number, name, following = struct.unpack_from("<IHHII", self._data, entry)
                found[number & 0x7FFF] = (self._text(name), self._text(library))
                entry += following
            at += after
        return found

    def _symbol_count(self) -> int:
        """As many as the hash table knows: the last of its chains ends with the last symbol."""
        at = self._place(_GNU_HASH)
        if not at:
            raise ValueError("a library without a GNU hash table")
        buckets, first, bloom, _ = struct.unpack_from("<IIII", self._data, at)
        table = at + 16 + 8 * bloom
        last: int = max(struct.unpack_from(f"<{buckets}I", self._data, table), default=0)
        if last < first:
            return int(first)
        chains = table + 4 * buckets
        while not struct.unpack_from("<I", self._data, chains + 4 * (last - first))[0] & 1:
            last += 1
        return last + 1

    def _read_symbols(self) -> None:
        symbols, numbers, versions = self._place(_SYMBOLS), self._place(_VERSIONS), self._versions_needed()
        for index in range(1, self._symbol_count()):
            name, info, _, section, _, _ = _SYMBOL.unpack_from(self._data, symbols + index * _SYMBOL.size)
            if section:
                self.defined.add(self._text(name))
            elif info >> 4 != _WEAK:
                number = struct.unpack_from("<H", self._data, numbers + 2 * index)[0] & 0x7FFF if numbers else 0
                version, library = versions.get(number, (None, None))
                self.imports.add(Import(self._text(name), version, library))
