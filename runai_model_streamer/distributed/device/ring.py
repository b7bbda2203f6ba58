"""The ring whose blocks pass from device to device; see the package."""

from collections.abc import Mapping, Sequence

import torch
from typing_extensions import override

from runai_model_streamer.distributed.device.conductor import ALL_RUN, ALLOW, PROMISE, Conductor
from runai_model_streamer.distributed.device.lane import Lane
from runai_model_streamer.distributed.device.turns import Turns
from runai_model_streamer.distributed.ranks.notices import Reason
from runai_model_streamer.distributed.ranks.peers import Peers
from runai_model_streamer.distributed.ring.blocks import Block
from runai_model_streamer.distributed.ring.end import RingEnd
from runai_model_streamer.distributed.ring.links import Links
from runai_model_streamer.distributed.ring.slots import Slots
from runai_model_streamer.errors import DistributedError
from runai_model_streamer.lifecycle import Stopped


class DeviceRing(RingEnd):
    """This rank's end: its blocks in host memory, and what it needs of all blocks on its device. Thread safe.

    Args:
        peers: the ranks of the load.
        blocks: all blocks of the load.
        fillers: the fillers of each block; see `blocks.deal_out`.
        domain: indices of the ranks that broadcast to each other, in order.
        slots: this rank's index -> its slots in host memory. Emptied by `close`.
        needed: number of each block that this rank takes -> bytes that it will copy of it.
        lane: the slots on the device; closed with this.
        order: keeps the order of the broadcasts.
    """

    on_device = True

    def __init__(
        self,
        peers: Peers,
        blocks: Sequence[Block],
        fillers: Sequence[tuple[int, ...]],
        domain: tuple[int, ...],
        slots: dict[int, Slots],
        needed: Mapping[int, int],
        lane: Lane,
        order: type[Turns] = Turns,
    ) -> None:
        super().__init__(peers, domain, slots)
        self._blocks, self._lane = blocks, lane
        self._roots = {number: filler for number, each in enumerate(fillers) for filler in each if filler in domain}
        self._numbers = list(self._roots)
        self._turn = {number: turn for turn, number in enumerate(self._numbers)}
        self._turns = order(self._me, domain, list(self._roots.values()), lane.count)
        self._tasks = [number for number, root in self._roots.items() if root == self._me]
        self._place = {number: place for place, number in enumerate(self._tasks)}
        self._filled: set[int] = set()
        self._uses = dict.fromkeys(self._tasks, 2)
        """Number of each block that this rank fills -> uses of its slot: its broadcast, and sending it elsewhere."""
        self._ready: set[int] = set()
        self._left = {number: needed[number] for number in self._numbers if needed.get(number)}
        lengths = [blocks[number].length for number in self._numbers]
        self._conductor = Conductor(peers, domain, self._turns, lengths, lane, self._lock, self)

    @override
    def connect(self, links: Links | None) -> None:
        super().connect(links)
        self._conductor.start()

    @property
    @override
    def complete(self) -> bool:
        return not self._left and not self._uses and self._turns.over

    @property
    def running(self) -> bool:
        """Whether the load has not ended."""
        return self._running

    @override
    def _await_slot_of(self, number: int) -> None:
        self._wait(self._freed, lambda: number not in self._uses, self._blamed)

    def _blamed(self) -> Sequence[int]:
        return [self._peers.ranks[each] for each in self._turns.waits_for()]

    @override
    def slot(self, number: int) -> memoryview:
        return self._slots[self._me].slot(self._place[number] % self._own_slots, self._blocks[number].length)

    @override
    def publish(self, number: int) -> None:
        with self._lock:
            self._filled.add(number)
            self._conductor.tell()

    @override
    def finish(self, number: int) -> None:
        self._use_no_more(number)

    def _use_no_more(self, number: int) -> None:
        with self._lock:
            self._uses[number] -= 1
            if not self._uses[number]:
                del self._uses[number]
                self._freed.notify_all()
                self._arrived.notify_all()  # `drain`
        self._say_goodbye_if_done()

    @override
    def lend(self, number: int, start: int, length: int) -> memoryview | torch.Tensor:
        seconds = self._wait(self._arrived, lambda: number in self._ready, self._blamed)
        self.count_wait(self._roots[number], seconds)
        return self._lane.bytes_of(self._turns.slot(self._turn[number]), start, length)

    @override
    def give_back(self, number: int, length: int) -> None:
        with self._lock:
            self._left[number] -= length
            if self._roots[number] != self._me:
                self.taken += length
            if not self._left[number]:
                del self._left[number]
                self._ready.discard(number)
                self._turns.freed(self._turn[number])
                self._conductor.tell()
        self._say_goodbye_if_done()

    @override
    def is_own(self, number: int) -> bool:
        return self._roots[number] == self._me

    @override
    def received(self, sender: int, kind: int, number: int) -> None:
        with self._lock:
            if kind == PROMISE:
                self._turns.hear_promise(sender, number)
            elif kind == ALLOW:
                self._turns.hear_allowed(number)
            self._conductor.tell()
        if kind == ALL_RUN:
            self.all_have_run(sender)

    @override
    def _stop(self) -> None:
        super()._stop()
        self._conductor.tell()

    @override
    def join(self, seconds: float) -> None:
        self._conductor.join(seconds)

    @override
    def close(self) -> None:
        super().close()
        self._conductor.close()

    # What the conductor calls.

    def memory_for(self, turn: int) -> memoryview | None:
        """Return this rank's block for a broadcast; None while it has not been filled."""
        number = self._numbers[turn]
        with self._lock:
            if number not in self._filled:
                return None
        return self.slot(number)

    def has_run(self, turn: int) -> None:
        """Let this rank's readers take a block from the device."""
        number = self._numbers[turn]
        with self._lock:
            if number in self._left:
                self._ready.add(number)
                self._arrived.notify_all()
            else:
                self._turns.freed(turn)
        if self.is_own(number):
            self._use_no_more(number)

    def all_have_run(self, index: int) -> None:
        """Note that a rank needs nothing more of the others' devices."""
        with self._lock:
            self._turns.all_have_run(index)
            self._arrived.notify_all()  # `drain`
            self._conductor.tell()
        self._say_goodbye_if_done()

    def send(self, other: int, kind: int, number: int) -> None:
        """Send a message. Raises as `lend` does."""
        self._send(other, kind, number)

    def ended(self, error: BaseException | None) -> None:
        """Find the rank at fault if the broadcasts have ended early, and end the load."""
        if error is None and not self._turns.over and self._error is None:
            try:
                self._raise_ended()
            except (DistributedError, Stopped) as found:
                error = found
        if error is None or isinstance(error, Stopped):
            return
        if not isinstance(error, DistributedError):
            rank, cause = self._peers.rank, error
            error = DistributedError(f"a broadcast between devices failed: {type(cause).__name__}: {cause}", (rank,))
            error.__cause__ = cause
            self._peers.end(Reason(rank, f"failed: {error}"))
        self.fail(error)
        self.stop()
