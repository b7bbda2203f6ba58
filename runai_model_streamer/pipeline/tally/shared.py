"""What a rank of a shared load counts."""

from collections.abc import Mapping
from typing import NamedTuple


class SharedCounts(NamedTuple):
    """One rank's part in a load that several share; see `report.SharedLoad`."""

    rank: int
    ranks: tuple[int, ...]
    memory: bool
    device: bool
    read: int
    received: int
    taken: int
    alone: int
    ring: int
    waited: Mapping[int, float]
    origins: Mapping[str, int]
    """Bytes that this rank got, by field of `report.BytesFrom`."""
