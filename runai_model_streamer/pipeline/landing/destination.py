"""Describes where a load's tensors land (`Destination`), and what that is made from (`LoadSpec`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.io.setup_time import SetupClock
from runai_model_streamer.io.source import Source
from runai_model_streamer.lifecycle import Lifecycle
from runai_model_streamer.pipeline.landing.lent import LentMemory
from runai_model_streamer.pipeline.landing.protocol import Landing
from runai_model_streamer.pipeline.plan.casts import Casting
from runai_model_streamer.pipeline.plan.groups import Group, Grouping, PlannedFile, plan_groups
from runai_model_streamer.pipeline.plan.limit import MemoryLimit

HOST: Final = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """What a load reads, and its limits. Every destination is made from this."""

    config: LoadConfig
    paths: Sequence[str]
    """Path of each file, for messages."""
    sources: Sequence[Source]
    """Source of each file. Several files may have the same source."""
    files: Sequence[PlannedFile]
    limit: MemoryLimit
    """Memory limit of this process."""
    concurrency: int
    """Reads in flight at once."""
    casting: Casting | None = None
    """What is cast on the way; None for nothing."""
    assembled: int = 0
    """Bytes of the largest tensor that is assembled from pieces, in separate memory; 0 for none."""
    shared: bool = False
    """Other processes of this node load the same files."""
    waits_for_ranks: bool = False
    """Reads may wait for other ranks."""
    lent: LentMemory | None = None
    """Memory that ranks share, from which a landing may copy itself."""
    setup: SetupClock = field(default_factory=SetupClock)
    """Times imports and compiling."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a load's tensors land, with its groups, which are planned when this is made."""

    device: torch.device
    """Device of the tensors."""
    files: Sequence[PlannedFile]
    """What to read, in reads of a size that suits this destination."""
    grouping: Grouping
    """Size of the groups, and how many reads may wait for each other."""
    make_landing: Callable[[Lifecycle, Sequence[Group]], Landing[Any]]
    """Makes the landing of these groups, once, in the thread that prepares the load. The load closes it.

    Raises `StreamerError` if the destination cannot be used."""
    limit: int | None = None
    """Maximum bytes of host memory that hold tensors; None if there is no limit, or it does not count tensors."""
    groups: tuple[Group, ...] = field(init=False)

    def __post_init__(self) -> None:
        groups = plan_groups(self.files, self.grouping.limit, self.grouping.target)
        object.__setattr__(self, "groups", tuple(groups))
