"""Device memory of groups, allocated ahead of the readers in a thread of its own.

An allocation may take CUDA milliseconds. Readers take steps one at a time, so all of them would wait for it together.
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
        """In whose order the memory was allocated."""
        self.event = event
        """Recorded behind what was pending on the memory; when the group is complete, behind its copies."""


class LeasesAhead:
    """The leases of a load, made in plan order in a thread of its own. It starts with the first `take`.

    Args:
        groups: of the load's plan.
        lifecycle: of the load.
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
        """Return the lease of the group, once it is there. One reader at a time calls this, in plan order.

        Args:
            group: the next group.
            make: allocates the memory of a group when the caller is near enough, and raises `Stopped` when the load
                ends.

        Raises:
            Stopped: the load has ended.
            StreamerError: it could not be made.
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
        """Drop what was not taken, after the load has ended. Wait at most `seconds` for an allocation to end."""
        self._crew.join(seconds)
        self._ready.clear()
        self._error = None
