"""Allocates the device memory of groups in a separate thread, ahead of the readers.

An allocation may take CUDA milliseconds. Readers take steps one at a time, so all of them would wait for it.
"""

from collections.abc import Callable, Sequence
from functools import partial

from runai_model_streamer.errors import StreamerError
from runai_model_streamer.lifecycle import Lifecycle, Stopped
from runai_model_streamer.pipeline.cuda.image import Image
from runai_model_streamer.pipeline.plan.groups import Group
from runai_model_streamer.pipeline.tally.nvtx import nvtx_range
from runai_model_streamer.pipeline.tally.wait_clock import WaitClock
from runai_model_streamer.threads.crew import Crew


class CudaLease:
    """The device memory of one group."""

    __slots__ = ("event", "group", "image", "stream")

    def __init__(self, group: Group, image: Image, stream: int, event: int) -> None:
        self.group = group
        self.image = image
        self.stream = stream
        """The stream in whose order the memory was allocated."""
        self.event = event
        """First recorded after the memory's earlier users; recorded again after the group's copies."""


class LeasesAhead:
    """Makes the leases of a load in plan order, in a thread that starts with the first `take`.

    Args:
        groups: the load's groups.
        lifecycle: the load's.
        waits: counts the time that readers wait here.
    """

    def __init__(self, groups: Sequence[Group], lifecycle: Lifecycle, waits: WaitClock) -> None:
        self._groups = [group for group in groups if group.steps]
        self._lifecycle = lifecycle
        self._waits = waits
        self._crew = Crew("allocator", "allocate device memory")
        self._ready: dict[int, CudaLease] = {}
        self._error: BaseException | None = None
        self._begun = False

    def take(self, group: Group, make: Callable[[Group], CudaLease]) -> CudaLease:
        """Wait for the group's lease, and return it. One reader at a time calls this, in plan order.

        Args:
            group: the next group.
            make: waits until the caller is near enough, then allocates a group's memory. Raises `Stopped` when the
                load ends.

        Raises:
            Stopped: the load has ended.
            StreamerError: the memory could not be allocated.
        """
        if not self._begun:
            self._begun = True
            self._crew.add(partial(self._run, make))
        if group.index not in self._ready:
            with nvtx_range("wait for the caller"), self._waits.waiting():
                self._lifecycle.wait_for(lambda: group.index in self._ready or self._error is not None)
        lease = self._ready.pop(group.index, None)
        if lease is not None:
            return lease
        error, self._error = self._error, None  # a reference kept here would be a cycle
        if error is None:
            raise Stopped
        try:
            raise error
        finally:
            del error

    def _run(self, make: Callable[[Group], CudaLease]) -> None:
        try:
            for group in self._groups:
                self._ready[group.index] = make(group)
                self._lifecycle.notify()
        except Stopped:
            pass
        except BaseException as error:
            if not isinstance(error, StreamerError):
                wrapped = StreamerError(f"allocating failed unexpectedly: {type(error).__name__}: {error}")
                wrapped.__cause__ = error
                self._error = wrapped
            else:
                self._error = error
            self._lifecycle.notify()

    def close(self, seconds: float) -> None:
        """Drop the leases not taken, after the load has ended. Wait at most `seconds` for an allocation."""
        self._crew.join(seconds)
        self._ready.clear()
        self._error = None
