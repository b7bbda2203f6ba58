"""The ring: shared memory through which a rank passes the bytes that it has read to the others; see the package."""

from collections import Counter
from collections.abc import Mapping, Sequence

from typing_extensions import override

from runai_model_streamer.distributed.ranks.peers import Peers
from runai_model_streamer.distributed.ring.blocks import Block, bits
from runai_model_streamer.distributed.ring.end import RingEnd
from runai_model_streamer.distributed.ring.links import READY, TAKEN, Links
from runai_model_streamer.distributed.ring.slots import Slots


class Ring(RingEnd):
    """This rank's end of the ring. Thread safe.

    Args:
        peers: the ranks of the load.
        blocks: all blocks of the load.
        fillers: the fillers of each block; see `blocks.deal_out`.
        slots: index of each rank of this one's domain -> its slots, this one's among them. Emptied by `close`.
        needed: number of each block that this rank takes -> bytes that it will copy of it.
    """

    def __init__(
        self,
        peers: Peers,
        blocks: Sequence[Block],
        fillers: Sequence[tuple[int, ...]],
        slots: dict[int, Slots],
        needed: Mapping[int, int],
    ) -> None:
        super().__init__(peers, tuple(slots), slots)
        self._blocks = blocks
        me = self._me
        domain = sum(1 << each for each in slots)
        tasks: list[int] = []
        self._place: dict[int, tuple[int, int]] = {}
        self._untaken: dict[int, int] = {}
        self._last_taker: dict[int, int] = {}
        filled = Counter[int]()
        for number, each in enumerate(fillers):
            for filler in each:
                if not domain >> filler & 1:
                    continue
                slot = filled[filler] % slots[filler].count
                filled[filler] += 1
                if filler == me:
                    tasks.append(number)
                    self._untaken[number] = blocks[number].takers & domain
                if blocks[number].takers >> me & 1:
                    self._place[number] = (filler, slot)
        self._tasks = tasks
        self._unfilled = len(tasks)
        self._ready: set[int] = set()
        self._left = {number: needed.get(number, 0) for number in self._place}

    @override
    def connect(self, links: Links | None) -> None:
        super().connect(links)
        for number in [number for number, length in self._left.items() if not length]:
            self._let_go(number)
        self._say_goodbye_if_done()

    @property
    @override
    def complete(self) -> bool:
        return not self._left and not self._unfilled

    @override
    def _await_slot_of(self, number: int) -> None:
        seconds = self._wait(self._freed, lambda: not self._untaken[number], lambda: self._holder(number))
        self.count_wait(self._last_taker[number], seconds)

    def _holder(self, number: int) -> Sequence[int]:
        """Return the first other rank that must still take a block; none if only this one must."""
        return [self._peers.ranks[each] for each in bits(self._untaken[number]) if each != self._me][:1]

    @override
    def slot(self, number: int) -> memoryview:
        filler, slot = self._place[number]
        return self._slots[filler].slot(slot, self._blocks[number].length)

    @override
    def publish(self, number: int) -> None:
        for other in bits(self._untaken[number]):
            if other != self._me:
                self._send(other, READY, number)

    @override
    def finish(self, number: int) -> None:
        """Let this rank take the block, too, now that it will not leave while it sends."""
        with self._lock:
            self._unfilled -= 1
            self._ready.add(number)
            self._arrived.notify_all()  # `drain`, too
        self._say_goodbye_if_done()

    @override
    def lend(self, number: int, start: int, length: int) -> memoryview:
        filler, slot = self._place[number]
        blamed = () if filler == self._me else (self._peers.ranks[filler],)
        self.count_wait(filler, self._wait(self._arrived, lambda: number in self._ready, lambda: blamed))
        return self._slots[filler].slot(slot, start + length)[start:]

    @override
    def give_back(self, number: int, length: int) -> None:
        filler, _ = self._place[number]
        with self._lock:
            self._left[number] -= length
            done = not self._left[number]
            if filler != self._me:
                self.taken += length
        if done:
            self._let_go(number)
            self._say_goodbye_if_done()

    @override
    def is_own(self, number: int) -> bool:
        return self._place[number][0] == self._me

    def _let_go(self, number: int) -> None:
        filler, _ = self._place[number]
        if filler == self._me:
            self._release(number, self._me)
        else:
            self._send(filler, TAKEN, number)
        with self._lock:
            del self._left[number]
            self._ready.discard(number)

    def _release(self, number: int, taker: int) -> None:
        with self._lock:
            self._untaken[number] &= ~(1 << taker)
            if not self._untaken[number]:
                self._last_taker[number] = taker
                self._freed.notify_all()

    @override
    def received(self, sender: int, kind: int, number: int) -> None:
        if kind == READY:
            with self._lock:
                if number in self._left:
                    self._ready.add(number)
                    self._arrived.notify_all()
        elif kind == TAKEN:
            self._release(number, sender)

    @override
    def join(self, seconds: float) -> None:
        """Return: this ring has no thread."""
