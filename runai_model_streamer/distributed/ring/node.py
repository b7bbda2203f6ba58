"""Makes the ranks of a node share memory, or use sockets if they cannot."""

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

import orjson

from runai_model_streamer.config import FanOut
from runai_model_streamer.distributed.ranks.peers import Peers
from runai_model_streamer.distributed.ranks.waits import CONNECTING
from runai_model_streamer.distributed.ring.links import Listener
from runai_model_streamer.distributed.ring.slots import Slots, create
from runai_model_streamer.errors import DistributedError, OutOfMemoryError

_log = logging.getLogger(__name__)


class NodeMemory(NamedTuple):
    """The memory that this rank shares, and the ranks that it shares it with."""

    domains: tuple[int, ...]
    """The domain of each rank of the load. Ranks of one domain share memory."""
    slots: dict[int, Slots]
    """Index of each rank of this one's domain -> its slots, this one's among them."""
    sockets: Mapping[int, socket.socket]
    """Index of each other rank of the domain -> the connection to it."""

    def ranks(self, me: int) -> tuple[int, ...]:
        """Return the indices of the ranks of the domain of rank `me`, this one's, in order."""
        return tuple(index for index, its in enumerate(self.domains) if its == self.domains[me])

    def close(self) -> None:
        """Close the connections, and release the memory."""
        for each in self.sockets.values():
            each.close()
        self.slots.clear()


def network() -> str:
    """Return the number of this process's network namespace. Ranks of one namespace can connect."""
    with contextlib.suppress(OSError):
        return str(os.stat("/proc/self/ns/net").st_ino)
    return str(os.getpid())


def share_memory(
    peers: Peers,
    candidates: Sequence[int],
    count: int,
    size: int,
    *,
    required: FanOut | None,
    make: Callable[[int, int], int] = create,
) -> NodeMemory:
    """Make slots that all ranks of a domain map. All ranks of the load must call this.

    Args:
        peers: the ranks of the load.
        candidates: for each rank, the same number for ranks that may share memory.
        count: number of slots of each rank.
        size: bytes of a slot; whole pages.
        required: the setting for which ranks that cannot share memory end the load. None: their bytes go through
            sockets.
        make: makes the memory.

    Raises:
        DistributedError: on all ranks: memory is required and cannot be shared, or a rank has failed.
        OutOfMemoryError: this rank has no memory of its own either.
    """
    me = peers.index
    mine = [index for index, its in enumerate(candidates) if its == candidates[me]]
    with contextlib.ExitStack() as stack:
        listener, file, why = None, -1, ""
        if len(mine) > 1:
            try:
                listener = stack.enter_context(contextlib.closing(Listener()))
                file = make(count, size)
                stack.callback(os.close, file)
            except OSError as error:
                why = f"{error.strerror or error}"
        offer = {"why": why} | ({} if listener is None else {"name": listener.name, "secret": listener.secret.hex()})
        offers = [orjson.loads(each) for each in peers.gather(orjson.dumps(offer))]
        slots: dict[int, Slots] = {}
        sockets: dict[int, socket.socket] = {}
        if listener is not None and not any(offers[index]["why"] for index in mine):
            try:
                others = {
                    index: (offers[index]["name"], bytes.fromhex(offers[index]["secret"]))
                    for index in mine
                    if index != me
                }
                met = listener.meet(me, others, file, min(peers.timeout, timedelta(seconds=CONNECTING)))
                for _, theirs in met.values():
                    stack.callback(os.close, theirs)
                sockets = {index: link for index, (link, _) in met.items()}
                slots = {index: Slots(count, size, theirs) for index, (_, theirs) in met.items()}
                slots[me] = Slots(count, size, file)
            except OSError as error:
                why = f"{error.strerror or error}"
        try:
            said = peers.gather(why.encode())
        except BaseException:
            for link in sockets.values():
                link.close()
            slots.clear()  # else the memory would stay as long as the error's traceback
            raise
    reasons = [offer["why"] or each.decode() for offer, each in zip(offers, said, strict=True)]
    failed = {candidates[index] for index, each in enumerate(reasons) if each}
    if candidates[me] in failed:
        for link in sockets.values():
            link.close()
        sockets, slots = {}, {}
        rank, reason = next((peers.ranks[index], reasons[index]) for index in mine if reasons[index])
        warn_once(rank, reason)
    if failed and required is not None:
        rank, reason = next((peers.ranks[index], each) for index, each in enumerate(reasons) if each)
        raise cannot_share(required, rank, reason)
    if not slots:
        try:
            slots = {me: Slots(count, size)}
        except OSError as error:
            raise OutOfMemoryError(
                f"no memory for the {count * size} bytes of slots that a rank reads into for others",
                remedy="set RUNAI_STREAMER_MEMORY_LIMIT",
            ) from error
    domains = tuple(
        index if candidates[index] in failed else candidates.index(candidates[index])
        for index in range(len(candidates))
    )
    return NodeMemory(domains, slots, sockets)


def cannot_share(fan_out: FanOut, rank: int, reason: str) -> DistributedError:
    """Make the error for ranks that must share memory, or connect to do without, and cannot."""
    lacks = "share memory" if fan_out is FanOut.MEMORY else "connect"
    return DistributedError(
        f"RUNAI_STREAMER_DIST_FANOUT={fan_out.value}, but rank {rank} cannot {lacks} with the others of its node: "
        f"{reason}",
        (rank,),
        remedy="leave it out to use sockets instead",
    )


_warned: set[str] = set()


def warn_once(rank: int, reason: str) -> None:
    """Warn that ranks of this node use sockets. Once in a process for each reason."""
    if reason not in _warned:
        _warned.add(reason)
        _log.warning(
            "The ranks of this node cannot share memory (rank %d: %s). They send each other what they read through "
            "sockets, which is slower",
            rank,
            reason,
        )
