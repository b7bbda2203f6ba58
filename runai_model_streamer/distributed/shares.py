"""Which rank reads what. Pure, and the same on every rank that plans the same."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from runai_model_streamer.checkpoint.tensor_info import nbytes_of
from runai_model_streamer.origins import SourceKind
from runai_model_streamer.pipeline.plan.groups import Group, PlannedFile, steps_of
from runai_model_streamer.ranges import PAGE, round_up

READS_PER_RANK: Final = 8
"""A part is cut into at least this many reads, so that parts differ by an eighth at most; unless these get small."""

MIN_READ: Final = {SourceKind.FILE: 256 << 10, SourceKind.OBJECT: 1 << 20}
"""Bytes below which a read is not cut to even out parts: it would take longer than what it evens out."""

SENT_AT_ONCE: Final = 8 << 20
"""Bytes of a read that other ranks wait for, at least, unless RUNAI_STREAMER_CHUNK_BYTESIZE says how many.

Each is three messages to each rank. 2 ranks on 2 CPUs, 1.9 GB from the page cache, 4 / 8 / 16 / 32 MiB: 1.7 / 2.2 /
2.1 / 1.5 GB/s, 0.49 / 0.37 / 0.36 / 0.47 CPU seconds per GB.
"""


class Share(NamedTuple):
    """One read of the plan, and the rank that does it for all."""

    offset: int
    length: int
    owner: int
    """Index of the rank among those that read the same."""
    number: int
    """Of the read, among all of the plan."""


class Beginning(NamedTuple):
    """The first bytes of an object, which the rank that opened it has."""

    length: int
    owner: int


def even_reads(files: Sequence[PlannedFile], ranks: int) -> list[PlannedFile]:
    """The files, with reads small enough to be dealt out evenly, and none that overlap.

    Reads widened to whole blocks would overlap where groups meet, and what is sent has one place only.
    """
    total = sum(nbytes_of(file.tensors) for file in files)
    even = round_up(max(total // (ranks * READS_PER_RANK), 1), PAGE)
    return [file._replace(alignment=1, chunk=min(file.chunk, max(even, MIN_READ[file.kind]))) for file in files]


def deal_out(
    groups: Sequence[Group], files: Sequence[PlannedFile], ranks: int, beginnings: Mapping[int, Beginning]
) -> list[list[Share]]:
    """The reads of each file, in file order, each with the rank that has the fewest bytes to read so far.

    Args:
        groups: of `plan_groups(files)`.
        files: of `even_reads`.
        beginnings: by the index of the file; reads within one are its owner's, since it has those bytes.
    """
    shares: list[list[Share]] = [[] for _ in files]
    loads = [0] * ranks
    number = 0
    for group in groups:
        for step in steps_of(group, files):
            beginning = beginnings.get(step.file)
            if beginning is not None and step.offset < beginning.length:
                owner = beginning.owner
            else:
                owner = loads.index(min(loads))
            loads[owner] += step.length
            shares[step.file].append(Share(step.offset, step.length, owner, number))
            number += 1
    return shares
