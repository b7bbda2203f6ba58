"""What a load asks of the processes that share it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from runai_model_streamer.config import StreamerConfig
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.source import Source
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.pipeline.plan.groups import Group, PlannedFile

_T = TypeVar("_T")


class SharedReads(NamedTuple):
    """How a shared load reads."""

    files: Sequence[PlannedFile]
    """What to read, in reads that can be dealt out evenly."""
    concurrency: int
    """Reads in flight at once, with those that wait for another rank."""
    min_limit: int | None
    """Without a memory limit, bytes of host memory that a rank may hold if twice its largest tensor is less; None for
    any number."""
    alone: bool
    """No other rank reads the same, so that there is nothing to wait for."""


class Sharing(Protocol):
    """The processes that read parts of the same load; see `distributed.sharing.RankSharing`."""

    @property
    def ranks_of_node(self) -> int:
        """Processes that share the memory limit."""
        ...

    def storage(self, config: StreamerConfig, credentials: S3Credentials | None) -> Storage:
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

    def agree_on_reads(self, files: Sequence[PlannedFile], concurrency: int) -> SharedReads:
        """Find the processes that read the same, and agree on the reads."""
        ...

    def divide(
        self, files: Sequence[PlannedFile], groups: Sequence[Group], sources: Sequence[Source], grouping: object
    ) -> Sequence[Source]:
        """Return sources from which this process reads its part, and receives the rest.

        Args:
            files: as agreed, or with smaller reads.
            groups: planned from these files.
            sources: one for each file.
            grouping: how they were planned; the same in every process.
        """
        ...
