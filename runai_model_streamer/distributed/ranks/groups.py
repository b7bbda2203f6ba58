"""Finds the ranks that share a load, and connects them."""

import logging
import os
import socket
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch.distributed as dist

from runai_model_streamer.config import Distribution, LoadConfig
from runai_model_streamer.distributed.ranks.channel import Channel, meeting, part_of
from runai_model_streamer.distributed.ranks.peers import Peers
from runai_model_streamer.distributed.ranks.roll_call import RollCall
from runai_model_streamer.distributed.ranks.waits import CONNECTING
from runai_model_streamer.errors import ArgumentError, DistributedError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_log = logging.getLogger(__name__)

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


CONNECTING_EACH: Final = 0.1
"""Seconds more for each rank: gloo connects it with all others."""


class Membership(NamedTuple):
    """The ranks that share a load, and their nodes."""

    peers: Peers
    nodes: tuple[str, ...]
    """The node of each rank."""
    store: Any
    """Where these ranks find each other, and no others: torch's store, under a name for this load."""

    @property
    def ranks_of_node(self) -> int:
        """Maximum number of ranks on one node. They share its memory."""
        return max(Counter(self.nodes).values())


def join(config: LoadConfig, group: "ProcessGroup | None" = None, connecting: float = CONNECTING) -> Membership | None:
    """Meet the other ranks of a process group, which must all call this. No other rank takes part.

    Each load makes new channels, which takes 20 ms on one node: a load that ends early leaves unusable connections.

    Args:
        config: this rank's settings.
        group: None for torch's default process group.
        connecting: maximum seconds to connect, once all ranks have come.

    Returns:
        None if there is nothing to share, or with RUNAI_STREAMER_DIST=0. The log says which.

    Raises:
        ArgumentError: this rank is not in the group.
        DistributedError: not all ranks called this within the timeout, or one has ended meanwhile.
    """
    everyone = _members(config, group)
    if everyone is None:
        return None
    me, mine = dist.get_rank(), node_name()
    try:
        store = meeting(everyone)
    except TypeError as error:  # as of MPI's
        raise DistributedError(
            f"rank {me}: torch's default process group has no store for ranks to find each other",
            remedy="make it with another backend, such as gloo or nccl",
        ) from error
    roll = RollCall(store, me, everyone)
    try:
        roll.answer(mine)
        nodes = roll.answers(config.distribution_timeout) | {me: mine}
    except RuntimeError as error:
        raise _not_met(roll, everyone, config.distribution_timeout, error) from error
    ranks = everyone if config.distribute_globally else [rank for rank in everyone if nodes[rank] == mine]
    if len(ranks) == 1:
        _fall_back(config, f"rank {me} is alone on its node, and RUNAI_STREAMER_DIST_GLOBAL is not 1")
        return None
    store = part_of(store, f"of {ranks[0]}")
    seconds = min(connecting + len(ranks) * CONNECTING_EACH, config.distribution_timeout)
    return Membership(_connect(ranks, store, roll, seconds, config), tuple(nodes[rank] for rank in ranks), store)


def _members(config: LoadConfig, group: "ProcessGroup | None") -> Sequence[int] | None:
    """Return the ranks to meet; None if there are none."""
    if config.distribution is Distribution.NEVER:
        why = "RUNAI_STREAMER_DIST=0"
    elif not dist.is_available():
        why = "this torch has no torch.distributed"
    elif not dist.is_initialized():
        why = "torch.distributed has no process group: call init_process_group first"
    elif group is not None and dist.get_rank() not in (ranks := _ranks_of(group)):
        raise ArgumentError(
            f"rank {dist.get_rank()} is not in the process group given as `group`, which has the ranks "
            f"{', '.join(map(str, ranks)) or 'of other processes'}: call this on those ranks only"
        )
    elif len(ranks := range(dist.get_world_size()) if group is None else _ranks_of(group)) == 1:
        why = f"{'the default process group' if group is None else 'the process group'} has one rank"
    elif not dist.is_gloo_available():
        why = "this torch has no gloo"
    else:
        return ranks
    _fall_back(config, why)
    return None


def _ranks_of(group: "ProcessGroup") -> Sequence[int]:
    """Return the group's ranks in order, which all members agree on. None if this rank is outside (`new_group`)."""
    return sorted(dist.get_process_group_ranks(group)) if isinstance(group, dist.ProcessGroup) else ()


def _fall_back(config: LoadConfig, why: str) -> None:
    level = logging.WARNING if config.distribution is Distribution.ALWAYS else logging.INFO
    _log.log(level, "Not distributed, each process reads all: %s", why)


def _connect(ranks: Sequence[int], store: Any, roll: RollCall, seconds: float, config: LoadConfig) -> Peers:
    """Connect ranks that have all come."""
    try:
        data, control = (Channel(ranks, part_of(store, purpose), seconds) for purpose in ("data", "control"))
        peers = Peers(ranks, data, control, config.distribution_timeout)
    except RuntimeError as error:
        raise _not_met(roll, ranks, seconds, error) from error
    try:
        peers.gather(b"")  # so that all of them know that all have connected
    except BaseException as error:
        peers.close()
        # A rank that did not get as far, because of another, has closed its connections.
        if isinstance(error, DistributedError) and any(map(roll.has_given_up, error.ranks)):
            raise _not_met(roll, ranks, seconds, error) from error
        raise
    return peers


def _not_met(roll: RollCall, ranks: Sequence[int], seconds: float, error: Exception) -> DistributedError:
    absent = roll.absent(ranks)
    everyone = ", ".join(map(str, ranks))
    found = f"rank {dist.get_rank()}: the ranks {everyone} did not meet within {seconds:g} s"
    if absent:
        found += f": rank {', '.join(map(str, absent))} did not come, or ended before all had met"
    return DistributedError(
        found,
        absent,
        remedy=f"each must call stream_files(..., is_distributed=True); found: {error}",
        sep="; ",
    )


def node_name() -> str:
    """Return the machine's name and boot id, which differs between machines of one name."""
    boot = ""
    with suppress(OSError):
        boot = _BOOT.read_text().strip()
    return f"{socket.gethostname()} {boot}".strip() or str(os.getpid())
