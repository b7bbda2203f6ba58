"""Limits how many groups are on the device ahead of the caller, and waits when the device is full."""

from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

from runai_model_streamer.errors import OutOfMemoryError
from runai_model_streamer.lifecycle import Lifecycle

GROUPS_AHEAD: Final = 2
"""Groups on the device that the caller may not have taken, however large: one that completes, and one that readers
fill. More may be ahead if they are small."""

T = TypeVar("T")


class Ahead:
    """Counts the groups of one load that have device memory, and those that the caller has taken.

    When the device is full, allocation waits until the caller has dropped older groups. From then on only one group is
    ahead of the caller. The load fails if the caller waits for the very group that gets no memory.

    Args:
        lifecycle: the load's; its end ends all waits.
        most: bytes of groups ahead below which there may be more of them than `GROUPS_AHEAD`.
    """

    def __init__(self, lifecycle: Lifecycle, most: int = 0) -> None:
        self._lifecycle = lifecycle
        self._max = GROUPS_AHEAD
        self._most = most
        self._sizes: deque[int] = deque()  # of the groups ahead, in plan order
        self._given = self._given_bytes = 0  # changed by the thread that allocates
        self._taken = self._taken_bytes = 0  # changed by the consumer
        self._awaited = -1

    def give(self, index: int, allocate: Callable[[], T], size: int = 0) -> T:
        """Wait until the caller is near enough, then allocate the memory for group `index`, the next in plan order.

        Args:
            index: the group's.
            allocate: allocates its memory.
            size: the bytes of that.

        Raises:
            Stopped: the load has ended meanwhile.
            OutOfMemoryError: the device is full, and the caller has no older group of this load left to drop.
        """
        self._lifecycle.wait_for(lambda: self._has_room(size))
        while True:
            taken, last = self._taken, self._awaited >= index
            try:
                memory = allocate()
            except OutOfMemoryError:
                if last:
                    raise
            else:
                self._sizes.append(size)
                self._given_bytes += size
                self._given += 1
                return memory
            self._max, self._most = 1, 0
            self._lifecycle.wait_for(lambda: self._taken > taken or self._awaited >= index)  # noqa: B023 - called before the next turn

    def _has_room(self, size: int) -> bool:
        if self._given - self._taken < self._max:
            return True
        return self._given_bytes - self._taken_bytes + size < self._most

    def take(self) -> None:
        """Note that the caller takes the next group."""
        self._taken += 1
        self._taken_bytes += self._sizes.popleft()
        self._lifecycle.notify()

    def await_group(self, index: int) -> None:
        """Note that the caller waits for this group, and has taken all before it."""
        self._awaited = index
        self._lifecycle.notify()
