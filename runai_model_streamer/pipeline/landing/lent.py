"""Memory that holds bytes of a load and belongs to others: other processes fill it, and fill it again."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch

from runai_model_streamer.origins import Origin


class Loan(NamedTuple):
    """Bytes in such memory. They stay as they are until they are given back."""

    memory: memoryview | torch.Tensor
    """In host memory; or on the device that they should land on, as bytes."""
    origin: Origin
    give_back: Callable[[], None]
    """Call it once, when nothing reads the bytes any more."""


class LentMemory(Protocol):
    """Memory that a landing may copy from itself. Otherwise a source's `read_into` copies from there."""

    @property
    def mappings(self) -> Sequence[memoryview]:
        """All host memory that is lent or copied from, in whole pages. None while nothing is shared."""
        ...

    @property
    def on_device(self) -> bool:
        """Whether what is lent is on the device. Then a source's `read_into` cannot copy it to the host."""
        ...

    def lend(self, file: int, offset: int, length: int) -> Loan | int:
        """Wait until the first bytes of a range are there, and lend as many of them as lie together.

        Returns:
            Or the number of first bytes that are not in this memory, to be read from the source.

        Raises:
            StreamerError: as `Source.read_into`.
        """
        ...
