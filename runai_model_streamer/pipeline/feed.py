"""What is to be read next: steps in plan order, the memory for each, and how many readers are of use."""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final, Generic

from runai_model_streamer.io.cgroups import usable_cpus
from runai_model_streamer.io.source import Source
from runai_model_streamer.lifecycle import Lifecycle
from runai_model_streamer.origins import MEMORY_SPEED, Origin
from runai_model_streamer.pipeline.landing.protocol import Landing, LeaseT
from runai_model_streamer.pipeline.pace import Pace
from runai_model_streamer.pipeline.plan.groups import Group, PlannedFile, Step, steps_of
from runai_model_streamer.pipeline.tally.load import Tally
from runai_model_streamer.pipeline.tally.reader import ReaderTally
from runai_model_streamer.pipeline.tally.reading import Reading
from runai_model_streamer.pipeline.tally.wait_clock import WaitClock
from runai_model_streamer.ranges import HUGE_PAGE, round_up

MEMORY_LATENCY: Final = 100e-6
"""Seconds that such a copy takes beside, however short it is; a local SSD takes about as long to begin."""

_ALL: Final = 1 << 30


class Feed(Generic[LeaseT]):
    """Hands out the steps of a plan, in order, and counts them in.

    Memory for a group is leased here, by the reader that takes its first step, while the others wait for their turn:
    so leases are granted in plan order, and no reader holds a connection while it waits for memory.

    Copies from the page cache keep a CPU busy each, and more of them than CPUs only get in each other's way (16
    threads on 2 CPUs: 8 GB/s, 2 threads: 13 GB/s, since a thread is suspended while it holds the GIL). So readers
    beyond the number of CPUs rest while reads are such copies, and join in at the first that waits for storage.

    Args:
        groups: the plan's.
        files: of the plan.
        landing: gives memory.
        lifecycle: of the load.
        tally: where readers count.
        first: where the plan's first read would come from.
        pace: how many readers are of use while reads wait for storage; None: all that ask.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        files: Sequence[PlannedFile],
        landing: Landing[LeaseT],
        lifecycle: Lifecycle,
        tally: Tally | None = None,
        first: Origin = Origin.BUFFERED,
        pace: Pace | None = None,
    ) -> None:
        self.tally = Tally() if tally is None else tally
        """Where readers count."""
        self._files = files
        self._landing = landing
        self._lifecycle = lifecycle
        self._turn = threading.Lock()
        self._steps: Iterator[tuple[LeaseT, Step]] = self._all_steps(groups)
        self._counting = threading.Lock()
        self._missing: dict[int, int] = {}  # group index -> its steps that have not landed, from its lease on
        self._complete = [not group.steps for group in groups]
        self.leases: dict[int, LeaseT] = {}
        """Group index -> lease, from the first step taken until the consumer takes the group."""
        self._cpus = usable_cpus()
        self._pace = Pace(_ALL, _ALL, 0.0) if pace is None else pace
        self._resting = threading.Condition()
        self._storage_bound = first.waits_for_storage
        self._copying = first is Origin.PAGE_CACHE  # known, where not being bound by storage may be a hope
        self._copies = 0
        self._exhausted = False
        lifecycle.on_stop(self._wake_all)

    def _all_steps(self, groups: Sequence[Group]) -> Iterator[tuple[LeaseT, Step]]:
        for group in groups:
            if group.steps:
                lease = self._landing.lease(group, self._storage_bound)
                self.leases[group.index] = lease
                # Copies are shared by all CPUs.
                even = round_up(-(-group.payload // self._cpus), HUGE_PAGE)
                steps = list(steps_of(group, self._files, even if self._copying else self._pace.large))
                self._missing[group.index] = len(steps)
                for step in steps:
                    yield lease, step

    def next(self, reader: int, tally: ReaderTally | None = None) -> tuple[LeaseT, Step] | None:
        """The next step for reader number `reader`, whose tally this is; None when there are no more.

        Raises:
            Stopped: the load has ended meanwhile.
        """
        if reader >= self._useful:
            with self._resting:
                while reader >= self._useful and self._lifecycle.running and not self._exhausted:
                    self._resting.wait()
            if tally is not None:
                tally.rested()
        with self._turn:
            self._lifecycle.check()
            work = next(self._steps, None)
        if work is None and not self._exhausted:
            self._exhausted = True
            self._wake_all()
        if tally is not None:
            tally.took()
        return work

    def has_work_for(self, reader: int) -> bool:
        """Whether that reader would not rest now."""
        return reader < self._useful and not self._exhausted

    @property
    def _useful(self) -> int:
        """Readers that are of use now."""
        return self._pace.readers if self._storage_bound else self._cpus

    def read(self, lease: LeaseT, step: Step, source: Source) -> Reading:
        """Read the step's bytes; see `Landing.read`."""
        return self._landing.read(lease, step, source)

    @property
    def waits(self) -> WaitClock:
        """See `Landing.waits`."""
        return self._landing.waits

    @property
    def extra_stage(self) -> str | None:
        """See `Landing.extra_stage`."""
        return self._landing.extra_stage

    def landed(self, lease: LeaseT, step: Step, origin: Origin, seconds: float) -> None:
        """The step's bytes have been read."""
        index = lease.group.index
        with self._counting:
            self._missing[index] -= 1
            last = not self._missing[index]
            more = self._pace.landed(step.length, seconds, time.perf_counter())
        if last:
            self._landing.ready(lease)
            # Not before it is ready: the consumer looks without being told.
            self._complete[index] = True
            self._lifecycle.notify()
        self._adapt(origin, step.length, seconds)
        if more:
            self._wake_all()

    def is_complete(self, index: int) -> bool:
        """Whether all steps of the group have landed, and it may be taken."""
        return self._complete[index]

    def close(self) -> None:
        """Let go of the memory of groups that nobody took."""
        self.leases.clear()
        self._steps = iter(())

    def _adapt(self, origin: Origin, length: int, seconds: float) -> None:
        copied = origin is Origin.PAGE_CACHE or (
            origin is Origin.BUFFERED and seconds < MEMORY_LATENCY + length / MEMORY_SPEED
        )
        self._copying = copied
        if not copied:
            self._copies = 0
            if not self._storage_bound:
                self._storage_bound = True
                self._wake_all()
        elif self._storage_bound:
            # Races between readers lose a count at worst; a few copies in a row are enough to tell.
            self._copies += 1
            if self._copies > 2 * self._cpus:
                self._storage_bound = False

    def _wake_all(self) -> None:
        with self._resting:
            self._resting.notify_all()
