"""The checksum of a whole object, computed from the ranges that are read, as they land.

CRCs of ranges can be combined in any order. Hashes (MD5, SHA) cannot: each range waits for the one before it, so one
core's hashing bounds the speed of an object, at 0.5 to 1 GB/s (benchmarks/RUNS.md). None of them holds the GIL.
"""

import hashlib
import threading
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from runai_model_streamer.errors import ChecksumError, InterruptedReadError, MissingDependencyError
from runai_model_streamer.installation import install_command
from runai_model_streamer.io.source import Source, SourceWrapper
from runai_model_streamer.origins import Origin

if TYPE_CHECKING:
    from hashlib import _Hash

_CRC_BYTES: Final = {"CRC64NVME": 8, "CRC32C": 4, "CRC32": 4}
_HASHES: Final = ("SHA256", "SHA1", "MD5")

ALGORITHMS: Final = (*_CRC_BYTES, *_HASHES)
"""Names of the algorithms, the cheapest to compute first."""


class Checksum(NamedTuple):
    """A store's checksum of an object's bytes."""

    algorithm: str
    """One of `ALGORITHMS`."""
    value: bytes


def cheapest(found: Mapping[str, bytes]) -> Checksum | None:
    """Choose among the checksums of one object, by algorithm; None if there are none.

    A CRC is the cheapest to compute. Without awscrt, which computes it, a hash is chosen if there is one.
    """
    known = [name for name in ALGORITHMS if name in found]
    if find_spec("awscrt") is None:
        known.sort(key=lambda name: name in _CRC_BYTES)
    return Checksum(known[0], found[known[0]]) if known else None


class Digest(Protocol):
    """The checksum of `size` bytes that arrive in pieces. Thread-safe. Each byte has to be added once."""

    @property
    def in_order(self) -> bool:
        """Whether a piece waits for all pieces before it."""
        ...

    def add(self, offset: int, piece: memoryview) -> bytes | None:
        """Add a piece. Return the checksum if it was the last missing piece.

        Raises:
            InterruptedReadError: `stop` was called while this waited for the pieces before it.
        """
        ...

    def stop(self) -> None:
        """End all waits."""
        ...


def make_digest(algorithm: str, size: int) -> Digest:
    """Begin to compute the checksum of `size` bytes, at least one.

    Raises:
        MissingDependencyError: the library for this algorithm is not installed.
    """
    if algorithm not in _CRC_BYTES:
        return OrderedDigest(hashlib.new(algorithm, usedforsecurity=False), size)
    try:
        from awscrt import checksums
    except ImportError as error:
        raise MissingDependencyError(
            f"RUNAI_STREAMER_VERIFY needs awscrt for {algorithm}",
            remedy=f"{install_command('verify')}, or unset it",
            sep=": ",
        ) from error
    name = algorithm.lower()
    return CombinedDigest(getattr(checksums, name), getattr(checksums, f"combine_{name}"), _CRC_BYTES[algorithm], size)


def crc64() -> Callable[[memoryview], int]:
    """Return what computes the CRC64NVME of bytes, without the GIL: 8 GB/s on one core.

    Raises:
        MissingDependencyError: awscrt is not installed.
    """
    try:
        from awscrt import checksums
    except ImportError as error:
        raise MissingDependencyError(
            "the cache needs awscrt for its checksums", remedy=install_command("verify"), sep=": "
        ) from error
    compute: Callable[[memoryview], int] = checksums.crc64nvme
    return compute


class CombinedDigest:
    """A CRC, computed for each piece, and combined for neighbours; see `Digest`.

    Args:
        compute: returns the CRC of bytes, without the GIL.
        combine: takes the CRCs of two neighbours, and the length of the second; returns the CRC of both.
        width: bytes of the CRC.
        size: bytes in all.
    """

    in_order = False

    def __init__(
        self, compute: Callable[[memoryview], int], combine: Callable[[int, int, int], int], width: int, size: int
    ) -> None:
        self._compute = compute
        self._combine = combine
        self._width = width
        self._size = size
        self._lock = threading.Lock()
        self._runs: dict[int, tuple[int, int]] = {}
        """Start of a run of added bytes -> its end, and its CRC."""
        self._starts: dict[int, int] = {}
        """End of a run -> its start."""

    def add(self, offset: int, piece: memoryview) -> bytes | None:
        """Add a piece, in any order; see `Digest.add`."""
        if not piece:
            return None
        crc = self._compute(piece)
        start, end = offset, offset + len(piece)
        with self._lock:
            if start in self._runs or end in self._starts:
                return None  # Read twice, which callers that verify do not do.
            if start in self._starts:
                before = self._starts.pop(start)
                crc = self._combine(self._runs.pop(before)[1], crc, end - start)
                start = before
            if end in self._runs:
                after, crc_after = self._runs.pop(end)
                crc = self._combine(crc, crc_after, after - end)
                end = after
            self._runs[start] = (end, crc)
            self._starts[end] = start
        return crc.to_bytes(self._width, "big") if (start, end) == (0, self._size) else None

    def stop(self) -> None:
        """Do nothing: nothing waits."""


class OrderedDigest:
    """A hash, which takes its bytes in order; see `Digest`.

    `add` waits until all pieces before this one have been added. So reads have to begin in order, without gaps, and
    none may wait for memory that a later one holds.
    """

    in_order = True

    def __init__(self, hasher: "_Hash", size: int) -> None:
        self._hasher = hasher
        self._size = size
        self._changed = threading.Condition()
        self._position = 0
        self._stopped = False

    def add(self, offset: int, piece: memoryview) -> bytes | None:
        """Add a piece, after all pieces before it; see `Digest.add`."""
        with self._changed:
            self._changed.wait_for(lambda: self._position >= offset or self._stopped)
            if self._stopped:
                raise InterruptedReadError(f"byte {offset} not hashed: the streamer is closing")
            new = piece[self._position - offset :]
            if not new:
                return None
            self._hasher.update(new)
            self._position += len(new)
            self._changed.notify_all()
            return self._hasher.digest() if self._position == self._size else None

    def stop(self) -> None:
        """Make waiting and later calls of `add` raise."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class VerifiedSource(SourceWrapper):
    """A source that compares its bytes with a checksum of the whole; see `Source`.

    If they do not match, the read of the last missing byte fails. The caller has the other bytes by then. A loader that
    yields a group after all reads for it and for earlier groups yields the object's last group only if the whole object
    matched.

    Every byte has to be read once. Call `skip_verification` if some will not be.
    """

    def __init__(self, source: Source, checksum: Checksum) -> None:
        """The inner source is closed with this one.

        Raises:
            MissingDependencyError: the library for this algorithm is not installed.
        """
        super().__init__(source)
        self._checksum = checksum
        self._digest: Digest | None = make_digest(checksum.algorithm, source.size)

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        """Fill `buffer` from `offset`; see `Source.read_into`.

        Raises:
            ChecksumError: these bytes complete the object, which does not match the store's checksum.
        """
        origin = self._source.read_into(offset, buffer)
        digest = self._digest
        if digest is not None:
            found = digest.add(offset, buffer)
            if found is not None and found != self._checksum.value:
                algorithm, value = self._checksum
                doubt = "; some stores' ETags are no MD5: unset RUNAI_STREAMER_VERIFY there" * (algorithm == "MD5")
                raise ChecksumError(
                    f"its {self.size} bytes do not have the checksum that the store has of them: {algorithm} is "
                    f"{found.hex()}, and should be {value.hex()}",
                    where=self.path,
                    remedy=f"Load it again; if that is refused too, the object is damaged: upload it again{doubt}",
                    sep=". ",
                )
        return origin

    @property
    def verified_by(self) -> str | None:
        """The algorithm of the checksum, one of `ALGORITHMS`."""
        return super().verified_by if self._digest is None else self._checksum.algorithm

    @property
    def in_order(self) -> bool:
        """True for a hash, which takes its bytes in order."""
        return super().in_order or (self._digest is not None and self._digest.in_order)

    def skip_verification(self) -> None:
        """Compare nothing from here on."""
        self._digest = None
        super().skip_verification()

    def interrupt(self) -> None:
        """Make current and later reads raise `InterruptedReadError`. Any thread may call it."""
        super().interrupt()
        digest = self._digest
        if digest is not None:
            digest.stop()
