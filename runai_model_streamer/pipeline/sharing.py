"""What a load asks of the processes that share it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch

from runai_model_streamer.config import LoadConfig
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.source import Source
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.pipeline.landing.lent import LentMemory
from runai_model_streamer.pipeline.plan.groups import Group, PlannedFile
from runai_model_streamer.pipeline.tally.shared import SharedCounts

_T = TypeVar("_T")


class SharedReads(NamedTuple):
    """How a shared load reads."""

    concurrency: int
    """Reads in flight at once, with those that wait for another rank."""
    min_limit: int | None
    """Without a memory limit, bytes of host memory that a rank may hold if twice its largest tensor is less; None for
    any number."""
    buffers: int
    """Bytes of memory that the processes of this node share. They count once against the memory limit."""
    alone: bool
    """This process reads all that it wants by itself, so that there is nothing to wait for."""
    lent: LentMemory | None = None
    """The memory that these processes share; None if they share none."""


class Sharing(Protocol):
    """The processes that read parts of the same load; see `distributed.sharing.RankSharing`."""

    @property
    def ranks_of_node(self) -> int:
        """Processes that share the memory limit."""
        ...

    def storage(self, config: LoadConfig, credentials: S3Credentials | None) -> Storage:
        """Make the storage that files are opened from."""
        ...

    def open_each(
        self,
        storage: Storage,
        paths: Sequence[str],
        concurrency: int,
        look: Callable[[Source], _T],
        asked: Mapping[str, Collection[str]],
    ) -> list[tuple[Source, _T]]:
        """Open every path as `pipeline.opening.open_each` does, together.

        Args:
            asked: what else all processes have to ask for alike, by its name.
        """
        ...

    def agree_on_reads(
        self, files: Sequence[PlannedFile], sources: Sequence[Source], concurrency: int, device: torch.device
    ) -> SharedReads:
        """Divide the reads among the processes that want the same bytes.

        Args:
            files: with the tensors that this process wants.
            sources: one for each file.
            concurrency: reads in flight at once, without sharing.
            device: where the bytes of this process land.
        """
        ...

    def divide(
        self, files: Sequence[PlannedFile], groups: Sequence[Group], sources: Sequence[Source]
    ) -> Sequence[Source]:
        """Return sources from which this process reads its part, and waits for the rest. Called once.

        Args:
            files: with the tensors that were agreed on, perhaps in smaller reads.
            groups: planned from these files. Their reads come, and no others.
            sources: one for each file.
        """
        ...

    def counts(self) -> SharedCounts | None:
        """What this process has read, taken and waited for so far; None: it shares no bytes."""
        ...
