"""The order of a domain's broadcasts: what each rank has promised, and what may be issued. Pure, not thread safe."""

from collections.abc import Sequence


class Turns:
    """One rank's view of the order; see the package.

    Args:
        me: this rank's index.
        domain: indices of the ranks that take part; the first is the leader.
        roots: for each broadcast the index of the rank whose bytes it brings to all.
        slots: number of slots on each device.
    """

    def __init__(self, me: int, domain: Sequence[int], roots: Sequence[int], slots: int) -> None:
        self._me, self.roots, self.slots = me, roots, slots
        self.leader = min(domain)
        """Index of the rank that allows."""
        self._loaded: set[int] = set()
        self._freed: set[int] = set()
        self._first_used = 0  # all slots of broadcasts before it are free again
        self._promises = dict.fromkeys(domain, 0) if self.leader == me else {me: 0}
        self.not_run = set(domain)
        """Ranks on which not all broadcasts have run."""
        self.allowed = 0
        """Number of broadcasts, the first ones, in which all ranks have promised to take part."""
        self.issued = 0
        """Number of broadcasts that this rank has issued."""
        self.run = 0
        """Number of broadcasts that have run on this rank."""

    @property
    def promised(self) -> int:
        """Number of broadcasts, the first ones, in which this rank has promised to take part."""
        return self._promises[self._me]

    @property
    def over(self) -> bool:
        """Whether all broadcasts have run on all ranks."""
        return not self.not_run

    def slot(self, turn: int) -> int:
        """Return the slot of a broadcast."""
        return turn % self.slots

    def may_load(self, turn: int) -> bool:
        """Return whether the slot of a broadcast is free, so that its root may upload the bytes."""
        return turn < self._first_used + self.slots

    def loaded(self, turn: int) -> None:
        """Note that the upload of this rank's bytes for a broadcast has been queued."""
        self._loaded.add(turn)

    def freed(self, turn: int) -> None:
        """Note that this rank has all that it needs of a broadcast."""
        self._freed.add(turn)
        while self._first_used in self._freed:
            self._freed.remove(self._first_used)
            self._first_used += 1

    def promise(self) -> bool:
        """Promise what this rank can take part in. Return whether that is more than before."""
        before = turn = self.promised
        while turn < len(self.roots) and self.may_load(turn) and (self.roots[turn] != self._me or turn in self._loaded):
            turn += 1
        self._promises[self._me] = turn
        return turn > before

    def hear_promise(self, sender: int, turns: int) -> None:
        """Note another rank's promise; on the leader only."""
        self._promises[sender] = max(self._promises[sender], turns)

    def allow(self) -> bool:
        """On the leader, allow what all have promised. Return whether that is more than before."""
        before = self.allowed
        if self.leader == self._me:
            self.allowed = min(self._promises.values())
        return self.allowed > before

    def hear_allowed(self, turns: int) -> None:
        """Note what the leader allows."""
        self.allowed = max(self.allowed, turns)

    def next_to_issue(self) -> int | None:
        """Return the broadcast to issue now; None for none."""
        return self.issued if self.issued < self.allowed else None

    def all_have_run(self, rank: int) -> None:
        """Note that all broadcasts have run on a rank."""
        self.not_run.discard(rank)

    def waits_for(self) -> list[int]:
        """Return the other ranks of which any may be at fault if nothing goes on; none if it is this rank itself."""
        others = [rank for rank in self.not_run if rank != self._me]
        if self.issued > self.run:
            return sorted(others)
        if self.run == len(self.roots):
            return sorted(others)
        if self.promised == self.allowed:
            return []
        if self.leader != self._me:
            return [self.leader]
        return [rank for rank, turns in sorted(self._promises.items()) if turns == self.allowed]
