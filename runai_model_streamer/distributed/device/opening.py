"""Makes the slots on this rank's device, and the group of the ranks that broadcast into them."""

from collections.abc import Mapping
from typing import Any, Final

import torch

from runai_model_streamer.distributed.device.group import DeviceGroup, backend_for
from runai_model_streamer.distributed.device.lane import Lane
from runai_model_streamer.distributed.device.ring import DeviceRing
from runai_model_streamer.distributed.ranks.peers import Peers
from runai_model_streamer.distributed.ring.blocks import is_shared
from runai_model_streamer.distributed.ring.division import Division
from runai_model_streamer.distributed.ring.end import RingEnd
from runai_model_streamer.distributed.ring.ring import Ring
from runai_model_streamer.errors import DistributedError
from runai_model_streamer.ranges import PAGE, round_up

SLOTS_PER_RANK: Final = 2
"""Slots on each device for each rank: while one block of each rank is broadcast, the next ones are uploaded."""


def open_lane(peers: Peers, division: Division, device: torch.device, store: Any) -> Lane | None:
    """Make this rank's slots, and its group. All ranks of its domain must call this.

    Args:
        peers: the ranks of the load.
        division: the division of the load; it has memory.
        device: where the bytes of this rank land.
        store: where the ranks of the load find each other.

    Returns:
        None if no other rank is in the domain: there is nothing to broadcast.

    Raises:
        DistributedError: torch has no backend for broadcasts between such devices, or cannot make the group.
    """
    from torch.distributed import distributed_c10d as c10d  # not every torch has it

    assert division.memory is not None
    domain = division.memory.ranks(peers.index)
    if len(domain) == 1:
        return None
    backend = backend_for(device)
    if backend is None:
        raise _cannot(peers, f"bytes of this load land on {device.type}, and torch has no backend for broadcasts there")
    shared = [
        block.length
        for block, fillers in zip(division.blocks, division.fillers, strict=True)
        if is_shared(block) and any(each in domain for each in fillers)
    ]
    count = min(SLOTS_PER_RANK * len(domain), len(shared))
    try:
        own = c10d.PrefixStore(f"device {domain[0]}", store)
        group = DeviceGroup(backend, own, domain.index(peers.index), len(domain))
        lane = Lane(device, count, round_up(max(shared), PAGE), group)
    except RuntimeError as error:
        raise _cannot(peers, str(error)) from error
    for other in [each for each in division.memory.slots if each != peers.index]:
        del division.memory.slots[other]  # each rank uploads from its own
    return lane


def ring_of(peers: Peers, division: Division, needed: Mapping[int, int], lane: Lane | None) -> RingEnd:
    """Make this rank's end of the ring: of memory that ranks share, or of the lane, which it closes.

    Args:
        peers: the ranks of the load.
        division: the division of the load; it has memory.
        needed: see `Ring`.
        lane: as `open_lane` made it.
    """
    memory = division.memory
    assert memory is not None
    if lane is None:
        return Ring(peers, division.blocks, division.fillers, memory.slots, needed)
    domain = memory.ranks(peers.index)
    return DeviceRing(peers, division.blocks, division.fillers, domain, memory.slots, needed, lane)


def _cannot(peers: Peers, why: str) -> DistributedError:
    return DistributedError(
        f"RUNAI_STREAMER_DIST_FANOUT=device, but rank {peers.rank} cannot broadcast to the others: {why}",
        (peers.rank,),
        remedy="leave it out to share memory instead",
    )
