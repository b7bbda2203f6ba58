"""Host memory within the limit: slabs leased in plan order and recycled once the caller has dropped their tensors.

A slab comes back when nothing made from it is alive. A weak reference on the root array of its lease reports
that. Its callback may run in any thread at any moment, even inside a locked section of this module. So it only puts the
slab on a `SimpleQueue`, whose `put` is safe there.

The limit counts slabs that are being filled or wait to be yielded, idle slabs, and the last group handed over. That
group stops counting when the caller drops it, visibly keeps it, or waits for a group that it leaves no room for. So a
caller that drops tensors as they arrive stays within the limit with a few warm slabs. Memory that the caller keeps is
the caller's own.

Page-locked memory (`pinned.py`) counts by the same rules, but goes back to torch, not to this pool.
"""

import contextlib
import threading
from collections import deque
from queue import Empty, SimpleQueue
from typing import Final

from runai_model_streamer.errors import OutOfMemoryError
from runai_model_streamer.lifecycle import Lifecycle
from runai_model_streamer.pipeline.memory.headroom import Headroom
from runai_model_streamer.pipeline.memory.policy import PoolPolicy
from runai_model_streamer.pipeline.memory.slabs import GroupMemory, Lease, OtherMemory, Root, Slab
from runai_model_streamer.pipeline.plan.groups import GROUP_BYTES, Group, group_target
from runai_model_streamer.pipeline.tally.wait_clock import WaitClock
from runai_model_streamer.ranges import round_up
from runai_model_streamer.threads.forks import keep_in_children

LIVE_GROUPS: Final = 4
"""Groups alive when no thread waits: two being filled, one complete, and one whose last tensor the caller has.
With room for three, readers wait where large and small groups meet: see benchmarks/RUNS.md."""

CYCLE: Final = 16
"""Groups after which sizes come again, layer by layer. A large slab that is freed before is fresh memory again."""

CAPACITY_STEP: Final = 256 << 10
"""Slab capacities are multiples of this, in bytes, so that groups of similar size fit each other's slabs."""


class SlabPool:
    """The host memory of one load.

    One reader at a time calls `lease`, in plan order; the consumer calls the other methods.

    Args:
        limit: the most bytes held; at least the charge of the largest group; None for no limit.
        lifecycle: the load's; its end ends a waiting `lease`.
        other: memory to use instead of slabs, for the groups that it accepts. It counts in the same way.
        policy: how to use memory without a limit.
    """

    def __init__(
        self,
        limit: int | None,
        lifecycle: Lifecycle,
        other: OtherMemory | None = None,
        policy: PoolPolicy | None = None,
    ) -> None:
        self._limit = limit
        # Most groups are a little smaller than the target. Mapped memory that is never touched costs nothing.
        self._usual_capacity = round_up(group_target(limit), CAPACITY_STEP)
        self._lifecycle = lifecycle
        self._other = other
        self._policy = policy = PoolPolicy() if policy is None else policy
        self._lock = threading.Lock()
        # Slabs that came back; None wakes a waiting lease to look again.
        self._returned: SimpleQueue[GroupMemory | None] = SimpleQueue()
        self._idle: list[GroupMemory] = []  # least recently used first
        self._idle_bytes = 0  # of their charges
        self._lent: set[GroupMemory] = set()
        self._handed: dict[GroupMemory, int] = {}  # lent slabs whose root only the caller has -> group index
        self._recent: deque[int] = deque(maxlen=LIVE_GROUPS - 1)  # charges of the last groups
        self._cycle: deque[int] = deque(maxlen=CYCLE)
        self._held = 0
        self._awaited = -1
        # Whether the caller drops tensors as they arrive, so that waiting for a used slab is worth it.
        self._hope = True
        self._machine = Headroom(policy.available, ahead=limit is None)
        self.peak = 0
        """The most bytes held at once, as the limit counts them."""
        self.waits = WaitClock()
        """How long `lease` has waited for memory to be returned."""
        lifecycle.on_stop(self._wake)
        keep_in_children(self)

    def lease(self, group: Group, storage_bound: bool = False) -> Lease:
        """Block until the limit allows memory for `group`.

        With no limit and `storage_bound`, allocate instead of waiting for a used slab: storage would wait too.

        Raises:
            Stopped: the load has ended.
            OutOfMemoryError: the operating system has no more memory.
        """
        while True:
            self._lifecycle.check()
            with self._lock:
                self._collect()
                slab, wait = self._obtain(group, storage_bound)
                if slab is not None:
                    return self._grant(slab, group)
            # A short wait for warm memory does not count as a lack of memory.
            waiting = self.waits.waiting() if wait is None else contextlib.nullcontext()
            try:
                with waiting:
                    returned = self._returned.get(timeout=wait)
            except Empty:
                self._hope = False
                continue
            with self._lock:
                self._take_back(returned)

    def hand_over(self, lease: Lease) -> Root:
        """End a complete lease. Return the root to make its tensors from; the pool keeps no reference to it."""
        root, lease.root = lease.root, None
        lease.memory = memoryview(b"")
        assert root is not None
        with self._lock:
            self._handed[lease.slab] = lease.group.index
        return root

    def release(self, index: int) -> None:
        """Stop counting groups before `index`: the caller has a tensor of `index`, so it keeps what is still alive."""
        with self._lock:
            self._collect()
            for slab in [slab for slab, group in self._handed.items() if group < index]:
                del self._handed[slab]
                slab.charged = False
                self._held -= slab.charge
                self._hope = False
        self._wake()

    def await_group(self, index: int) -> None:
        """Note that the consumer waits for group `index`: it gets memory even if the caller holds its predecessor."""
        self._awaited = index
        self._wake()

    def close(self) -> None:
        """Free idle memory. Memory that the caller still uses is freed when the caller drops it."""
        with self._lock:
            for slab in self._lent:
                slab.root_ref = None
            self._lent.clear()
            self._handed.clear()
            self._idle.clear()
            self._idle_bytes = self._held = 0
            while not self._returned.empty():
                self._returned.get()

    def missing_in_children(self) -> list[GroupMemory]:
        """Return the slabs that reads fill, which are hidden from forked children."""
        return list(self._lent)

    def _wake(self) -> None:
        self._returned.put(None)

    def _collect(self) -> None:
        while not self._returned.empty():
            try:
                returned = self._returned.get_nowait()
            except Empty:  # a waiting lease has taken it
                return
            self._take_back(returned)

    def _take_back(self, slab: GroupMemory | None) -> None:
        if slab is None or slab not in self._lent:
            return
        self._lent.remove(slab)
        self._handed.pop(slab, None)
        self._hope = True
        if not slab.recycled:
            self._held -= slab.charge if slab.charged else 0
            return
        if not slab.charged:
            slab.charged = True
            self._held += slab.charge
        self._idle.append(slab)
        self._idle_bytes += slab.charge
        if self._limit is not None:
            self._evict(self._held - self._limit)
        elif (excess := self._held - self._kept_bytes) > 0:
            self._evict(min(excess, self._idle_bytes - self._policy.idle_bytes))

    @property
    def _kept_bytes(self) -> int:
        """The bytes held up to which idle slabs are kept, without a limit."""
        return max(self._policy.working_set, LIVE_GROUPS * max(self._cycle, default=0))

    def _evict(self, excess: int) -> None:
        while excess > 0 and self._idle:
            slab = self._idle.pop(0)
            self._idle_bytes -= slab.charge
            self._held -= slab.charge
            excess -= slab.charge

    def _obtain(self, group: Group, storage_bound: bool) -> tuple[GroupMemory | None, float | None]:
        """Return memory for the group, or None and the seconds to wait for it (None: until some is returned)."""
        size = None if self._other is None else self._other.size_for(group)
        if self._other is not None and size is not None:
            wait = self._wait_before_fresh(group, size, size, storage_bound)
            slab = self._other.take(group, size) if wait == 0 else None
            if slab is not None or self._other.required:
                self._machine.took(size)
                return slab, wait
        slab = self._reuse(group)
        if slab is not None:
            return slab, 0
        wait = self._wait_before_fresh(group, self._charge(group), group.footprint, storage_bound)
        return self._fresh(group) if wait == 0 else None, wait

    def _reuse(self, group: Group) -> GroupMemory | None:
        """Take the idle slab that fits best: the smallest, and of those the most recently used."""
        best = None
        # A small group in a large slab would make one small tensor keep the whole slab alive.
        maximum = max(4 * group.footprint, GROUP_BYTES)
        for slab in self._idle:
            if group.footprint <= slab.capacity <= maximum and (best is None or slab.capacity <= best.capacity):
                best = slab
        if best is None:
            return None
        growth = max(self._charge(group) - best.charge, 0)
        if self._limit is not None and self._spoken_for(group) + growth > self._limit:
            return None
        self._idle.remove(best)
        self._idle_bytes -= best.charge
        self._held -= best.charge
        return best

    def _spoken_for(self, group: Group) -> int:
        """Return the bytes that `group` has to share the limit with."""
        held = self._held
        if group.index == self._awaited:
            # The caller has everything else that counts, and cannot drop it while it waits for this group.
            held -= sum(slab.charge for slab in self._handed)
        return held

    def _wait_before_fresh(self, group: Group, charge: int, size: int, storage_bound: bool) -> float | None:
        """Return the seconds to wait for a used slab: None to wait until one is returned, 0 to allocate now.

        Args:
            group: the group that needs memory.
            charge: the bytes that the memory would count for.
            size: the bytes that it would take from the machine.
            storage_bound: as for `lease`.
        """
        soft = max(self._policy.working_set, sum(self._recent) + charge)
        budget = soft if self._limit is None else self._limit
        idle = self._idle_bytes
        in_use = self._spoken_for(group) - idle
        if in_use + charge <= budget or in_use <= 0:
            self._evict(in_use + idle + charge - (self._kept_bytes if self._limit is None else budget))
        elif self._limit is not None:
            return None
        elif self._hope and not storage_bound and group.index != self._awaited:
            return self._policy.recycle_wait
        # All readers wait for the first group, which is allocated in any case.
        if self._limit is None and (in_use > 0 or idle) and self._machine.lacks(size):
            self._evict(idle)
            return None if in_use > 0 and group.index != self._awaited else 0
        return 0

    def _fresh(self, group: Group) -> Slab:
        self._machine.took(group.footprint)
        try:
            return self._policy.new_slab(self._capacity(group))
        except (OSError, MemoryError) as error:
            raise OutOfMemoryError(
                f"no memory for the {group.footprint} bytes of the group that begins with tensor {group.first_name!r} "
                f"({self._held} bytes are held)",
                tensor=group.first_name,
                remedy="set RUNAI_STREAMER_MEMORY_LIMIT, or drop tensors as they come",
                sep=": ",
            ) from error

    def _capacity(self, group: Group) -> int:
        return round_up(max(group.footprint, self._usual_capacity, group.target), CAPACITY_STEP)

    def _charge(self, group: Group) -> int:
        """Return the bytes that the group counts for. Within a limit, those are what becomes resident."""
        if self._limit is None:
            return group.charge
        beyond = Slab.resident(group.footprint, self._capacity(group)) - group.footprint
        # A limit equal to the largest tensor is enough.
        return max(group.charge, min(group.charge + beyond, self._limit))

    def _grant(self, slab: GroupMemory, group: Group) -> Lease:
        slab.charge = max(slab.charge, self._charge(group))
        self._recent.append(slab.charge)
        self._cycle.append(slab.charge)
        self._held += slab.charge
        self.peak = max(self.peak, self._spoken_for(group))
        self._lent.add(slab)
        lease = Lease(slab, group)
        put = self._returned.put
        assert lease.root is not None
        slab.watch(lease.root, lambda _: put(slab))
        return lease
