"""Which ranks share a load, and the process groups that they talk over."""

import logging
import os
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch.distributed as dist

from runai_model_streamer.config import Distribution, StreamerConfig
from runai_model_streamer.distributed.peers import Peers
from runai_model_streamer.errors import DistributedError

_log = logging.getLogger(__name__)

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class Membership(NamedTuple):
    """This rank among those that share a load."""

    peers: Peers
    ranks_of_node: int
    """Ranks that stream on one node, at most: they share its memory."""
    node: str


def join(config: StreamerConfig) -> Membership | None:
    """Meet the other ranks of torch's default process group, all of which have to call this too.

    New groups for each load, 20 ms on one node: a load that ends early leaves connections that nobody can use again.

    Returns:
        None where there is nothing to share, or RUNAI_STREAMER_DIST=0; the log says which.

    Raises:
        DistributedError: not all ranks came within the timeout.
    """
    if not _is_possible(config):
        return None
    everyone = range(dist.get_world_size())
    peers = _meet([everyone], config)
    assert peers is not None
    try:
        nodes = [each.decode() for each in peers.gather(node_name().encode())]
    except BaseException:
        peers.close()
        raise
    node, ranks_of_node = nodes[peers.rank], max(Counter(nodes).values())
    if config.distribute_globally or len(set(nodes)) == 1:
        return Membership(peers, ranks_of_node, node)
    try:
        by_node = [[rank for rank in everyone if nodes[rank] == each] for each in dict.fromkeys(nodes)]
        mine = _meet([ranks for ranks in by_node if len(ranks) > 1], config)
    finally:
        peers.close()
    if mine is None:
        _fall_back(config, f"rank {dist.get_rank()} is alone on its node, and RUNAI_STREAMER_DIST_GLOBAL is not 1")
        return None
    return Membership(mine, ranks_of_node, node)


def _is_possible(config: StreamerConfig) -> bool:
    if config.distribution is Distribution.NEVER:
        why = "RUNAI_STREAMER_DIST=0"
    elif not dist.is_available():
        why = "this torch has no torch.distributed"
    elif not dist.is_initialized():
        why = "torch.distributed has no process group: call init_process_group first"
    elif dist.get_world_size() == 1:
        why = "torch's default process group has one rank"
    elif not dist.is_gloo_available():
        why = "this torch has no gloo"
    else:
        return True
    _fall_back(config, why)
    return False


def _fall_back(config: StreamerConfig, why: str) -> None:
    level = logging.WARNING if config.distribution is Distribution.ALWAYS else logging.INFO
    _log.log(level, "Not distributed, each process reads all: %s", why)


def _meet(parties: Iterable[Sequence[int]], config: StreamerConfig) -> Peers | None:
    """Make the groups of all parties, each a list of ranks, which every rank has to do in the same order; its own."""
    seconds = config.distribution_timeout
    peers = None
    made: list[Any] = []
    party: Sequence[int] = ()
    try:
        for party in parties:
            pair: list[Any] = [dist.new_group(list(party), timedelta(seconds=seconds), "gloo") for _ in range(2)]
            if dist.get_rank() in party:
                made = pair
                peers = Peers(party, pair[0], pair[1], seconds)
    except (RuntimeError, ValueError) as error:
        for group in made:
            with suppress(RuntimeError, ValueError):
                dist.destroy_process_group(group)
        raise DistributedError(
            f"rank {dist.get_rank()}: the ranks {', '.join(map(str, party))} did not meet within {seconds:g} s",
            remedy=f"each has to call stream_files(..., is_distributed=True); torch says: {error}",
            sep=": ",
        ) from error
    return peers


def node_name() -> str:
    """The machine's name, and what tells two machines of one name apart."""
    boot = ""
    with suppress(OSError):
        boot = _BOOT.read_text().strip()
    return f"{socket.gethostname()} {boot}".strip() or str(os.getpid())
