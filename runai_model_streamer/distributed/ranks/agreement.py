"""Checks that all ranks have the same paths and settings before they share a load."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

import orjson

from runai_model_streamer.checkpoint.strict_json import short
from runai_model_streamer.distributed.ranks.peers import Peers
from runai_model_streamer.errors import DistributedError
from runai_model_streamer.io.paths import as_unicode

Facts: TypeAlias = Mapping[str, str]
"""Name of a fact -> this rank's value."""

_SHOWN = 5
"""Maximum differences named in one error."""


def agree(peers: Peers, facts: Facts) -> None:
    """Compare facts between all ranks. A rank need not have each fact.

    Args:
        peers: the ranks.
        facts: this rank's facts, which must equal the other ranks'.

    Raises:
        DistributedError: on all ranks, if facts differ. It names the values that differ from the first rank's.
    """
    given = {as_unicode(what): as_unicode(fact) for what, fact in facts.items()}
    said: list[dict[str, str]] = [orjson.loads(each) for each in peers.gather(orjson.dumps(given))]
    differences, ranks = _differences(peers, said)
    if differences:
        shown = "; ".join(differences[:_SHOWN])
        more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise DistributedError(f"the ranks do not stream the same: {shown}{more}", tuple(sorted(ranks)))


def _differences(peers: Peers, said: Sequence[Facts]) -> tuple[list[str], set[int]]:
    """Compare each fact with that of the first rank that has it. Return the differences as text, and their ranks."""
    differences: list[str] = []
    ranks: set[int] = set()
    for what in dict.fromkeys(what for theirs in said for what in theirs):
        values = [(rank, theirs[what]) for rank, theirs in zip(peers.ranks, said, strict=True) if what in theirs]
        reference, expected = values[0]
        for rank, value in values[1:]:
            if value != expected:
                ranks.add(rank)
                differences.append(f"{what}: {expected} on rank {reference}, {value} on rank {rank}")
    return differences, ranks


def listed(items: Collection[str]) -> str:
    """Describe a list in a few words, which differ if the lists do."""
    digest = hashlib.sha256("\0".join(items).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    first = f" from {short(next(iter(items)))} on" if items else ""
    return f"{len(items)}{first} ({digest})"
