"""What a load asks of other processes that read parts of it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from runai_model_streamer.config import StreamerConfig
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.source import Source
from runai_model_streamer.io.storage import Storage
from runai_model_streamer.pipeline.plan.groups import Group, PlannedFile

_T = TypeVar("_T")


class SharedReads(NamedTuple):
    """How a load reads when it is shared."""

    files: Sequence[PlannedFile]
    """With reads that can be dealt out evenly."""
    concurrency: int
    """Reads in flight at once, those that wait for another rank among them."""
    min_limit: int | None
    """Bytes of host memory that a rank may hold without a memory limit, if twice its largest tensor is less; None: any
    number."""
    alone: bool
    """No other rank reads the same: there is nothing to wait for."""


class Sharing(Protocol):
    """Other processes that read parts of the same load; see `distributed.sharing.RankSharing`."""

    @property
    def ranks_of_node(self) -> int:
        """Processes that share the memory limit."""
        ...

    def storage(self, config: StreamerConfig, credentials: S3Credentials | None) -> Storage:
        """What files are opened from."""
        ...

    def open_each(
        self,
        storage: Storage,
        paths: Sequence[str],
        concurrency: int,
        look: Callable[[Source], _T],
        asked: Mapping[str, Collection[str]],
    ) -> list[tuple[Source, _T]]:
        """See `pipeline.opening.open_each`; `asked`: what else all processes have to ask for alike, by its name."""
        ...

    def agree_on_reads(self, files: Sequence[PlannedFile], concurrency: int) -> SharedReads:
        """Find the processes that read the same, and how to read with them."""
        ...

    def divide(
        self, files: Sequence[PlannedFile], groups: Sequence[Group], sources: Sequence[Source], landing: object
    ) -> Sequence[Source]:
        """Sources of which this process reads its part, and receives the rest.

        Args:
            files: of the terms, or with smaller reads.
            groups: of `plan_groups(files)`.
            sources: one for each file.
            landing: what else decides how the bytes are taken; the same everywhere.
        """
        ...
