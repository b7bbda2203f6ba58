"""A source that takes shared bytes from the ring, and reads the others itself."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple, Protocol

import numpy as np
import torch
from typing_extensions import override

from runai_model_streamer.io.source import Source, SourceWrapper
from runai_model_streamer.origins import Origin, SourceKind, farthest
from runai_model_streamer.pipeline.landing.lent import Loan

_WAITED_FOR: Final = {SourceKind.FILE: Origin.DISK, SourceKind.OBJECT: Origin.OBJECT}
"""The origin expected of shared bytes. All readers take part, since most wait for other ranks, not for a CPU."""


class Span(NamedTuple):
    """Consecutive bytes of a file that come to this rank in the same way."""

    offset: int
    end: int
    block: int | None
    """Number of the block of the ring; None if this rank reads the bytes itself."""


class Lender(Protocol):
    """The ring, as a source sees it."""

    def lend(self, number: int, start: int, length: int) -> tuple[memoryview | torch.Tensor, Origin]:
        """Wait for a block. Return its bytes from `start` on, and where they came from."""
        ...

    def give_back(self, number: int, length: int) -> None:
        """Say that this rank has so many more bytes of the block; each byte once."""
        ...


class SharedSource(SourceWrapper):
    """One file or object of a shared load, as a `Source`. Only planned ranges are read (`division.Division`).

    Args:
        source: opened by this rank.
        spans: all that this rank will read of it, in file order.
        ring: lends shared bytes.
        start: called before each read.
        count: called with the origin and the number of bytes of each piece, and whether it was read for this rank
            alone.
        idle: whether only this load's reader threads read from `source`. If not, it is not closed.
    """

    def __init__(
        self,
        source: Source,
        spans: Sequence[Span],
        ring: Lender,
        start: Callable[[], None],
        count: Callable[[Origin, int, bool], None],
        idle: Callable[[], bool],
    ) -> None:
        super().__init__(source)
        source.skip_verification()  # this rank reads only a part of the bytes from it
        self.streams = None  # readers that wait for other ranks keep no storage busy
        self._spans = spans
        self._offsets = [span.offset for span in spans]
        self._ring, self._start, self._count, self._idle = ring, start, count, idle

    @override
    def origin(self, offset: int, length: int) -> Origin:
        """Return where the bytes will come from. Shared bytes count as reads from storage."""
        if self._spans[self._index(offset)].block is None:
            return self._source.origin(offset, length)
        return _WAITED_FOR[self.kind]

    def read_into(self, offset: int, buffer: memoryview) -> Origin:
        """Fill the buffer, from the ring and from storage.

        Returns:
            The origin of the bytes; of several, the most distant.

        Raises:
            DistributedError: another rank failed, died, ended early, or hangs.
            StreamerError: raised by `Source.read_into`, here or in a read for the others.
        """
        origins, position = set(), 0
        while position < len(buffer):
            loan = self.lend(offset + position, len(buffer) - position)
            if isinstance(loan, int):
                origins.add(self.read_alone(offset + position, buffer[position : position + loan]))
                position += loan
                continue
            assert isinstance(loan.memory, memoryview)  # else a landing has copied it on the device
            piece = buffer[position : position + len(loan.memory)]
            np.copyto(np.frombuffer(piece, np.uint8), np.frombuffer(loan.memory, np.uint8))
            loan.give_back()
            origins.add(loan.origin)
            position += len(piece)
        return farthest(origins)

    def read_alone(self, offset: int, buffer: memoryview) -> Origin:
        """Fill the buffer with bytes that this rank reads itself. Raises as `read_into` does."""
        origin = self._source.read_into(offset, buffer)
        self._count(origin, len(buffer), True)
        return origin

    def lend(self, offset: int, length: int) -> Loan | int:
        """Lend the first bytes of a range; see `pipeline.landing.lent`. Raises as `read_into` does."""
        self._start()
        span = self._spans[self._index(offset)]
        length = min(span.end - offset, length)
        if span.block is None:
            return length
        memory, origin = self._ring.lend(span.block, offset - span.offset, length)
        return Loan(memory, origin, partial(self._give_back, span.block, origin, length))

    def _give_back(self, number: int, origin: Origin, length: int) -> None:
        self._count(origin, length, False)
        self._ring.give_back(number, length)

    def _index(self, offset: int) -> int:
        return max(bisect_right(self._offsets, offset) - 1, 0)

    @override
    def close(self) -> None:
        """Close the inner source, unless a read for other ranks hangs in it. Then it goes when that ends."""
        if self._idle():
            super().close()
