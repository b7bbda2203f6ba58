"""Where a load's tensors land: what a destination is made from, and what it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from runai_model_streamer.config import StreamerConfig
from runai_model_streamer.io.setup_time import SetupClock
from runai_model_streamer.io.source import Source
from runai_model_streamer.lifecycle import Lifecycle
from runai_model_streamer.pipeline.landing.protocol import Landing
from runai_model_streamer.pipeline.plan.casts import Casting
from runai_model_streamer.pipeline.plan.groups import Group, Grouping, PlannedFile, plan_groups
from runai_model_streamer.pipeline.plan.limit import MemoryLimit

HOST: Final = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """What a load reads, and within which bounds: what every destination is made from."""

    config: StreamerConfig
    paths: Sequence[str]
    """For messages, one for each file."""
    sources: Sequence[Source]
    """One for each file; the same source may be behind several."""
    files: Sequence[PlannedFile]
    limit: MemoryLimit
    """Of this process."""
    concurrency: int
    """Reads in flight at once."""
    casting: Casting | None = None
    """What is cast on the way; None: nothing."""
    assembled: int = 0
    """Bytes of the largest tensor that is put together from what has landed, in memory of its own."""
    shared: bool = False
    """Other processes of this node load the same files."""
    waits_for_ranks: bool = False
    """Reads may wait for other ranks."""
    setup: SetupClock = field(default_factory=SetupClock)
    """Times imports and compiling."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a load's tensors land, and the groups in which they do, planned when this is made."""

    device: torch.device
    """Where the tensors are."""
    files: Sequence[PlannedFile]
    """What to read, in reads that suit this destination."""
    grouping: Grouping
    """How large its groups are, and how many reads may wait for each other."""
    make_landing: Callable[[Lifecycle, Sequence[Group]], Landing[Any]]
    """Makes the landing of these groups, once, in the thread that prepares the load. The load closes it.

    Raises `StreamerError` if the destination cannot be used."""
    limit: int | None = None
    """Bytes of host memory that tensors are held in at most; None: no limit, or none that counts tensors."""
    groups: tuple[Group, ...] = field(init=False)

    def __post_init__(self) -> None:
        groups = plan_groups(self.files, self.grouping.limit, self.grouping.target)
        object.__setattr__(self, "groups", tuple(groups))
