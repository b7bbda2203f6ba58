"""Fills this rank's blocks in threads: reads them from storage, or receives them from another node."""

import threading
import time
from collections.abc import Mapping, Sequence

from runai_model_streamer.distributed.ranks.notices import Reason
from runai_model_streamer.distributed.ranks.peers import Peers
from runai_model_streamer.distributed.ring.blocks import Block
from runai_model_streamer.distributed.ring.end import RingEnd
from runai_model_streamer.errors import DistributedError, InterruptedReadError, ReadError, StreamerError
from runai_model_streamer.io.source import Source
from runai_model_streamer.lifecycle import Stopped
from runai_model_streamer.origins import Origin
from runai_model_streamer.pipeline.plan.groups import PlannedFile
from runai_model_streamer.pipeline.readers import name_tensors
from runai_model_streamer.threads.crew import Crew


class Fillers:
    """Threads that fill blocks in order. They end when all blocks are filled, or the load has ended.

    Args:
        ring: has the slots.
        peers: the ranks of the load.
        blocks: all blocks of the load.
        fillers: the fillers of each block; see `blocks.deal_out`.
        files: the files of the load, with this rank's tensors, for messages.
        sources: the sources of the files.
        beginnings: index of a file -> its first bytes, if this rank has them.
        count: maximum number of threads.
    """

    def __init__(
        self,
        ring: RingEnd,
        peers: Peers,
        blocks: Sequence[Block],
        fillers: Sequence[tuple[int, ...]],
        files: Sequence[PlannedFile],
        sources: Sequence[Source],
        beginnings: Mapping[int, bytes],
        count: int,
    ) -> None:
        self._ring, self._peers, self._blocks, self._fillers = ring, peers, blocks, fillers
        self._files, self._sources, self._beginnings = files, sources, beginnings
        self._starting = threading.Lock()
        self._count = min(count, ring.tasks)
        self._crew = Crew("filler", "read")
        self._started = False
        self._counting = threading.Lock()
        self.origins: dict[int, Origin] = {}
        """Number of each block that this rank has filled -> where its bytes came from."""
        self.read = self.received = 0
        """Bytes read from storage for all ranks; bytes received from other nodes, or through sockets."""

    def start(self) -> None:
        """Start the threads, once. If the system allows fewer threads, use those.

        Raises:
            StreamerError: the system allows none.
        """
        if self._started:
            return
        with self._starting:
            while not self._started and len(self._crew.threads) < self._count:
                if not self._crew.add(self._run):
                    break
            self._started = True

    def join(self, seconds: float) -> bool:
        """Start no more threads, and wait up to `seconds` for their end. Return whether all have ended."""
        with self._starting:
            self._started = True
        return not self._crew.join(seconds)

    def _run(self) -> None:
        number = None
        try:
            while (number := self._ring.claim()) is not None:
                self._fill(number)
        except (Stopped, InterruptedReadError):
            self._ring.stop()  # the load has ended, or is about to
        except DistributedError as error:
            self._ring.fail(error)
            self._ring.stop()
        except BaseException as error:
            self._fail(error, number)

    def _fail(self, error: BaseException, number: int | None) -> None:
        if not isinstance(error, StreamerError):
            failed = StreamerError(f"reading failed unexpectedly: {type(error).__name__}: {error}")
            failed.__cause__ = error
            error = failed
        if isinstance(error, ReadError) and number is not None:
            block = self._blocks[number]
            name_tensors(error, self._files[block.file].tensors, block.offset, block.end)
        self._ring.fail(error)  # before waiters are woken
        self._peers.end(Reason(self._peers.rank, f"failed: {type(error).__name__}: {error}"))
        self._ring.stop()

    def _fill(self, number: int) -> None:
        ranks = self._peers.ranks
        reader, *receivers = self._fillers[number]
        buffer = self._ring.slot(number)
        if reader != self._peers.index:
            began = time.monotonic()
            self._peers.receive(buffer, ranks[reader], number)
            self._ring.count_wait(reader, time.monotonic() - began)
            origin, receivers = Origin.RANK, []
        else:
            origin = self._read(self._blocks[number], buffer)
        with self._counting:
            self.origins[number] = origin
            if origin is Origin.RANK:
                self.received += len(buffer)
            else:
                self.read += len(buffer)
        self._ring.publish(number)
        if receivers:
            self._peers.send(buffer, number, [ranks[each] for each in receivers])
        self._ring.finish(number)  # last, so that this rank does not leave while it sends

    def _read(self, block: Block, buffer: memoryview) -> Origin:
        source = self._sources[block.file]
        at_hand = self._beginnings.get(block.file, b"")[block.offset : block.end]
        buffer[: len(at_hand)] = at_hand
        if len(at_hand) == len(buffer):
            return Origin.OBJECT
        return source.read_into(block.offset + len(at_hand), buffer[len(at_hand) :])
