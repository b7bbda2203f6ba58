"""The feed of reads: steps in plan order, memory for each group, and the number of useful readers."""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final, Generic

from runai_model_streamer.io.cgroups import usable_cpus
from runai_model_streamer.io.source import Source
from runai_model_streamer.lifecycle import Lifecycle
from runai_model_streamer.origins import MEMORY_SPEED, Origin
from runai_model_streamer.pipeline.landing.protocol import Landing, LeaseT
from runai_model_streamer.pipeline.pace import Pace, ReaderCount
from runai_model_streamer.pipeline.plan.groups import LARGE_BYTES, Group, PlannedFile, Step, steps_of
from runai_model_streamer.pipeline.plan.short import begun_short
from runai_model_streamer.pipeline.tally.load import Tally
from runai_model_streamer.pipeline.tally.reader import ReaderTally
from runai_model_streamer.pipeline.tally.reading import Reading
from runai_model_streamer.pipeline.tally.wait_clock import WaitClock
from runai_model_streamer.ranges import HUGE_PAGE, round_down, round_up

MEMORY_LATENCY: Final = 100e-6
"""Fixed seconds of a copy from the page cache, however short. A local SSD takes about as long to begin."""

HELD_PART: Final = 8
"""Reads in flight that are larger than `LARGE_BYTES` hold 1/8 of what is left of a load at most, and ..."""

MAX_HELD: Final = 2 << 30
"""... no more than these bytes."""

_ALL: Final = 1 << 30


class Feed(Generic[LeaseT]):
    """Hands out the steps of a plan in order, and counts those that have landed.

    The reader that takes a group's first step leases the group's memory, while the others wait for their turn. So
    leases are granted in plan order, and no reader holds a connection while it waits for memory.

    A copy from the page cache keeps one CPU busy, and more copies than CPUs slow each other down (benchmarks/RUNS.md).
    So readers beyond the number of CPUs rest while reads are such copies, and resume when a read waits for storage.

    Args:
        groups: the plan's groups.
        files: the plan's files.
        landing: leases memory, and reads into it.
        lifecycle: the load's.
        tally: the counts of the load.
        first: the origin of the plan's first read.
        pace: the number of useful readers while reads wait for storage; None for all of them.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        files: Sequence[PlannedFile],
        landing: Landing[LeaseT],
        lifecycle: Lifecycle,
        tally: Tally | None = None,
        first: Origin = Origin.BUFFERED,
        pace: ReaderCount | None = None,
    ) -> None:
        self.tally = Tally() if tally is None else tally
        """The counts of the load."""
        self._files = files
        self._landing = landing
        self._lifecycle = lifecycle
        self._turn = threading.Lock()
        self._steps: Iterator[tuple[LeaseT, Step]] = self._all_steps(groups)
        self._counting = threading.Lock()
        self._missing: dict[int, int] = {}  # group index -> steps that have not landed; set when the group is leased
        self._complete = [not group.steps for group in groups]
        self._awaited = -1
        self.leases: dict[int, LeaseT] = {}
        """Group index -> lease, from the first step taken until the consumer takes the group."""
        self._cpus = usable_cpus()
        self._pace: ReaderCount = Pace(_ALL, _ALL, 0.0) if pace is None else pace
        self._resting = threading.Condition()
        self._storage_bound = first.waits_for_storage
        self._copying = first is Origin.PAGE_CACHE  # certain, while `not _storage_bound` may be a guess
        self._copies = 0
        self._fetches = False  # then readers are connections, whatever is copied between what they fetch
        self._exhausted = False
        self._fitting = _ALL
        lifecycle.on_stop(self._wake_all)

    def _all_steps(self, groups: Sequence[Group]) -> Iterator[tuple[LeaseT, Step]]:
        left, short = sum(group.payload for group in groups), self._pace.short
        for group in groups:
            if group.steps:
                lease = self._landing.lease(group, self._storage_bound)
                self.leases[group.index] = lease
                large = self._large(left)
                if self._copying and self._files[group.parts[0].file].shared_copies:
                    large = min(round_up(-(-group.payload // self._cpus), HUGE_PAGE), LARGE_BYTES)
                large = self._fit(large, self._files[group.parts[0].file])
                steps = list(steps_of(group, self._files, large, self._pace.largest_of(left)))
                if short:
                    steps = begun_short(steps, self._files, short)
                    short = max(short - len(steps), 0)
                left -= group.payload
                self._missing[group.index] = len(steps)
                for step in steps:
                    yield lease, step
                del lease  # while the next one is waited for, the caller may drop what was made from it

    def _large(self, left: int) -> int:
        """Return the bytes of a read that pays. Beyond `LARGE_BYTES`, all readers hold a part of what is left at most.

        What they hold is fresh memory, which costs more than the Python that fewer reads save.
        """
        held = min(left // HELD_PART, MAX_HELD) // self._pace.readers
        return min(self._pace.large, max(round_down(held, HUGE_PAGE), LARGE_BYTES))

    def _fit(self, large: int, file: PlannedFile) -> int:
        """Bound the readers to as many reads of this size as the landing has room for.

        Copies become smaller instead: each needs a CPU, whereas a disk is as busy with a few large reads.
        """
        large, fitting = min(large, file.large), _ALL
        if large > file.chunk:
            wanted = 1 if self._storage_bound else self._cpus
            while (fitting := self._landing.reads_at_once(large)) < wanted and large > file.chunk:
                large = round_down(large // 2, HUGE_PAGE)
        before, self._fitting = self._fitting, max(fitting, 1)
        if before < fitting:
            self._wake_all()
        return large

    def next(self, reader: int, tally: ReaderTally | None = None) -> tuple[LeaseT, Step] | None:
        """Return the next step for reader number `reader`, whose tally is `tally`; None if no steps are left.

        Raises:
            Stopped: the load has ended.
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
        """Return whether that reader would get a step now, rather than rest."""
        return reader < self._useful and not self._exhausted

    @property
    def _useful(self) -> int:
        """The number of useful readers now."""
        return min(self._pace.readers, self._fitting) if self._storage_bound else self._cpus

    def read(self, lease: LeaseT, step: Step, source: Source) -> Reading:
        """Read the step's bytes; see `Landing.read`."""
        return self._landing.read(lease, step, source)

    @property
    def waits(self) -> WaitClock:
        """Time that readers have waited for memory, or for the caller."""
        return self._landing.waits

    @property
    def extra_stage(self) -> str | None:
        """The stage that the landing spends time on besides the source's read; None: no other."""
        return self._landing.extra_stage

    def landed(self, lease: LeaseT, step: Step, origin: Origin, seconds: float) -> None:
        """Record that the step's bytes have landed."""
        index = lease.group.index
        with self._counting:
            self._missing[index] -= 1
            last = not self._missing[index]
            fetched = origin is Origin.OBJECT
            self._fetches |= fetched
            more = self._pace.landed(step.length, seconds, time.perf_counter(), fetched=fetched)
        if last:
            self._landing.ready(lease)
            # Only once it is ready: the consumer may look at any moment.
            self._complete[index] = True
            if index == self._awaited:  # for any other, the consumer would wake in vain, and take the GIL from readers
                self._lifecycle.notify()
        self._adapt(origin, step.length, seconds)
        if more:
            self._wake_all()

    def is_complete(self, index: int) -> bool:
        """Return whether all steps of the group have landed, so that it can be taken."""
        return self._complete[index]

    def wait_for(self, index: int) -> None:
        """Wait until the group is complete. The consumer calls it.

        Raises:
            Stopped: the load has ended.
        """
        self._awaited = index  # before the first look: a reader looks here after it has noted the group
        self._lifecycle.wait_for(lambda: self._complete[index])

    def close(self) -> None:
        """Release the memory of groups that were not taken."""
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
        elif self._storage_bound and not self._fetches:
            # At worst, a race between readers loses a count. A few copies in a row are enough to decide.
            self._copies += 1
            if self._copies > 2 * self._cpus:
                self._storage_bound = False

    def _wake_all(self) -> None:
        with self._resting:
            self._resting.notify_all()
