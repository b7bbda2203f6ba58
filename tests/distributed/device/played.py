"""Ranks that broadcast to each other, played by threads of one process, in an order that a seed chooses."""

import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from typing import Any, Final, cast

import numpy as np
import torch
from torch._C._distributed_c10d import HashStore

from runai_model_streamer.distributed.device.group import DeviceGroup
from runai_model_streamer.distributed.device.lane import Lane
from runai_model_streamer.distributed.device.ring import DeviceRing
from runai_model_streamer.distributed.device.turns import Turns
from runai_model_streamer.distributed.ranks.peers import Peers
from runai_model_streamer.distributed.ring.blocks import Block, bits
from runai_model_streamer.distributed.ring.links import Links
from runai_model_streamer.distributed.ring.slots import Slots
from runai_model_streamer.errors import DistributedError, StreamerError
from runai_model_streamer.lifecycle import Stopped
from runai_model_streamer.ranges import PAGE
from tests.distributed.device import backend

HOST: Final = torch.device("cpu")


class LateLane(Lane):
    """A lane in host memory whose uploads run late, as those of a stream do."""

    def __init__(self, count: int, size: int, group: DeviceGroup, chance: random.Random) -> None:
        super().__init__(HOST, count, size, group)
        self._chance = chance
        self._late: dict[int, threading.Event] = {}
        self._queue: queue.SimpleQueue[tuple[int, memoryview, threading.Event] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def upload(self, slot: int, memory: memoryview) -> None:
        self._late[slot] = threading.Event()
        self._queue.put((slot, memory, self._late[slot]))

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            slot, memory, event = work
            time.sleep(self._chance.random() * 5e-4)
            super().upload(slot, memory)
            event.set()

    def wait_for(self, event: threading.Event | None) -> None:
        """Let the next broadcast wait for this."""
        backend.behind.event = event

    def broadcast(self, slot: int, length: int, root: int) -> Any:
        self.wait_for(self._late.pop(slot, None))
        return super().broadcast(slot, length, root)

    def drain(self) -> None:
        self._queue.put(None)
        self._thread.join()


class PlayedPeers:
    """The ranks, as one of them sees them. All end with the first failure."""

    def __init__(self, index: int, size: int, world: "World") -> None:
        self.ranks, self.rank, self.index = tuple(range(size)), index, index
        self.timeout = timedelta(seconds=world.patience)
        self._world = world

    def waiting_for(self, *_: int) -> Any:
        return nullcontext()

    def failure(self, rank: int, error: Exception) -> DistributedError | Stopped:
        if self._world.ended:
            return Stopped()
        self._world.end(f"rank {self.rank} blames rank {rank}: {error}")
        return DistributedError(f"rank {rank}: {error}", (rank,))

    def end(self, reason: Any) -> None:
        self._world.end(f"rank {reason.rank} {reason.text}")


class PlayedLinks:
    """Brings a rank's messages to the others, in order, some of them late."""

    def __init__(self, index: int, world: "World") -> None:
        self._index, self._world = index, world

    def start(self) -> None:
        pass

    def send(self, other: int, kind: int, number: int = 0) -> bool:
        self._world.boxes[other].put((self._index, kind, number))
        return True

    def hang_up(self) -> None:
        pass

    close = hang_up


class World:
    """One load of a few ranks.

    Args:
        seed: chooses ranks, blocks, slots, and how late each thing happens.
        order: what keeps the order.
        lane: the slots on a device.
        patience: seconds that ranks wait for each other.
    """

    def __init__(
        self,
        seed: int,
        order: type[Turns] = Turns,
        lane: type[LateLane] = LateLane,
        patience: float = 60.0,
    ) -> None:
        self._chance = chance = random.Random(seed)
        self.patience = patience
        size = chance.randint(2, 4)
        everyone = (1 << size) - 1
        self.wrong: list[str] = []
        """What the backend told, what a rank saw that was not so, and how the load ended early."""
        self.ended = False
        self._ending = threading.Lock()
        blocks, fillers = [], []
        for number in range(chance.randint(4, 12)):
            takers = everyone if chance.random() < 0.7 else chance.choice([3, 3 << (size - 2), everyone])
            blocks.append(Block(0, number * PAGE, chance.randint(1, PAGE), takers))
            fillers.append((chance.choice(bits(takers)),))
        self.blocks, self.fillers = blocks, fillers
        self.boxes: list[queue.SimpleQueue[tuple[int, int, int] | None]] = [queue.SimpleQueue() for _ in range(size)]
        backend.register(lambda store, rank, of: backend.Checked(store, rank, of, seed, self.wrong.append, patience))
        store, count = HashStore(), chance.randint(1, 5)
        self.rings = []
        for index in range(size):
            group = DeviceGroup(backend.NAME, store, index, size)
            needed = {
                number: self._wanted(index, number) for number, each in enumerate(blocks) if each.takers >> index & 1
            }
            peers = cast(Peers, PlayedPeers(index, size, self))
            made = lane(count, PAGE, group, random.Random(seed * 10 + index))
            slots = {index: Slots(chance.randint(1, 3), PAGE)}
            self.rings.append(DeviceRing(peers, blocks, fillers, tuple(range(size)), slots, needed, made, order=order))

    def _wanted(self, index: int, number: int) -> int:
        """Bytes that a rank takes of a block: all, or the first half, or none."""
        length = self.blocks[number].length
        return (length, length, length // 2, 0)[(index * 7 + number * 5) % 4]

    def data(self, number: int) -> bytes:
        """What is in a block."""
        return np.random.default_rng(number).integers(0, 200, self.blocks[number].length, np.uint8).tobytes()

    def end(self, why: str) -> None:
        """End the load of all ranks."""
        with self._ending:
            if self.ended:
                return
            self.ended = True
        self.wrong.append(why)
        for ring in self.rings:
            ring.stop()

    def run(self) -> list[str]:
        """Load. Return what was wrong."""
        delivering = [
            threading.Thread(target=self._deliver, args=(index,), daemon=True) for index in range(len(self.rings))
        ]
        acting = []
        for index, ring in enumerate(self.rings):
            for work in [self._take] + [self._fill] * self._chance.randint(1, 2):
                thread = threading.Thread(target=self._guarded, args=(work, index), daemon=True)
                acting.append(thread)
            ring.connect(cast(Links, PlayedLinks(index, self)))
        for thread in delivering + acting:
            thread.start()
        for thread in acting:
            thread.join(2 * self.patience)
            if thread.is_alive():
                self.end(f"{thread.name} hangs")
        for ring in self.rings:
            ring.drain()
            if not ring.complete and not self.ended:
                self.wrong.append("a rank has not got all")
        for ring in self.rings:
            ring.stop()
            ring.join(60.0)
            ring.close()
        for box in self.boxes:
            box.put(None)
        for thread in delivering:
            thread.join()
        return self.wrong

    def _deliver(self, index: int) -> None:
        chance = random.Random(index)
        while (message := self.boxes[index].get()) is not None:
            if chance.random() < 0.3:
                time.sleep(chance.random() * 5e-4)
            self.rings[index].received(*message)

    def _guarded(self, work: Callable[[int, random.Random], None], index: int) -> None:
        try:
            work(index, random.Random(index))
        except (StreamerError, Stopped):
            pass
        except Exception as error:
            self.end(f"rank {index}: {error!r}")

    def _fill(self, index: int, chance: random.Random) -> None:
        ring = self.rings[index]
        while (number := ring.claim()) is not None:
            if chance.random() < 0.3:
                time.sleep(chance.random() * 1e-3)
            ring.slot(number)[:] = self.data(number)
            ring.publish(number)
            ring.finish(number)

    def _take(self, index: int, chance: random.Random) -> None:
        ring = self.rings[index]
        for number, block in enumerate(self.blocks):
            length = self._wanted(index, number) if block.takers >> index & 1 else 0
            if not length:
                continue
            found = ring.lend(number, 0, length)
            half = bytes(cast(Sequence[int], found))[: length // 2]
            if chance.random() < 0.5:
                time.sleep(chance.random() * 1e-3)
            if half + bytes(cast(Sequence[int], found))[length // 2 :] != self.data(number)[:length]:
                self.wrong.append(f"rank {index} saw something else in block {number}")
            ring.give_back(number, length)
