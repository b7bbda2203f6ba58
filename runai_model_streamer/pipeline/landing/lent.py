"""Memory that holds bytes of a load and belongs to others: other processes fill it, and fill it again."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from runai_model_streamer.origins import Origin


class Loan(NamedTuple):
    """Bytes in such memory. They stay as they are until they are given back."""

    memory: memoryview
    origin: Origin
    give_back: Callable[[], None]
    """Call it once, when nothing reads the bytes any more."""


class LentMemory(Protocol):
    """Memory that a landing may copy from itself. Otherwise a source's `read_into` copies from there."""

    @property
    def mappings(self) -> Sequence[memoryview]:
        """All memory that is lent, in whole pages. None while nothing is shared."""
        ...

    def lend(self, file: int, offset: int, length: int) -> Loan | int:
        """Wait until the first bytes of a range are there, and lend as many of them as lie together.

        Returns:
            Or the number of first bytes that are not in this memory, to be read from the source.

        Raises:
            StreamerError: as `Source.read_into`.
        """
        ...
