"""How many groups are on the device ahead of the caller, and what happens when it has no memory for one more."""

from collections.abc import Callable
from typing import Final, TypeVar

from runai_model_streamer.errors import OutOfMemoryError
from runai_model_streamer.lifecycle import Lifecycle
from runai_model_streamer.pipeline.tally.nvtx import nvtx_range
from runai_model_streamer.pipeline.tally.wait_clock import WaitClock

GROUPS_AHEAD: Final = 2
"""Groups on the device that the caller has not taken: one being completed, one that readers go on with."""

T = TypeVar("T")


class Ahead:
    """Counts the groups of one load that have device memory, and those that the caller has taken.

    When the device is full, the groups that the caller is about to drop are waited for, and from then on only one group
    is ahead of it. A load fails when the caller waits for the very group that has no memory.

    Args:
        lifecycle: of the load; waits end with it.
        waits: counts the time that readers wait here.
    """

    def __init__(self, lifecycle: Lifecycle, waits: WaitClock) -> None:
        self._lifecycle = lifecycle
        self._waits = waits
        self._max = GROUPS_AHEAD
        self._given = 0  # counted by readers, one at a time
        self._taken = 0  # by the consumer
        self._awaited = -1

    def give(self, index: int, allocate: Callable[[], T]) -> T:
        """Return the memory for group `index`, which comes next in plan order, as soon as the caller is near enough.

        Raises:
            Stopped: the load has ended meanwhile.
            OutOfMemoryError: the device has none, and nothing of the load's is left that the caller may drop.
        """
        self._wait(lambda: self._given - self._taken < self._max)
        while True:
            taken, last = self._taken, self._awaited >= index
            try:
                memory = allocate()
            except OutOfMemoryError:
                if last:
                    raise
            else:
                self._given += 1
                return memory
            self._max = 1
            self._wait(lambda: self._taken > taken or self._awaited >= index)  # noqa: B023 - called before the next turn

    def take(self) -> None:
        """The caller takes the next group."""
        self._taken += 1
        self._lifecycle.notify()

    def await_group(self, index: int) -> None:
        """The caller waits for this group, and has taken all before it."""
        self._awaited = index
        self._lifecycle.notify()

    def _wait(self, condition: Callable[[], bool]) -> None:
        with nvtx_range("wait for the caller"), self._waits.waiting():
            self._lifecycle.wait_for(condition)
