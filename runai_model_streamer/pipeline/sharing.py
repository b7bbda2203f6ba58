"""What a load asks of other processes that read parts of it."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from runai_model_streamer.config import StreamerConfig
from runai_model_streamer.io.paths import Storage
from runai_model_streamer.io.s3_credentials import S3Credentials
from runai_model_streamer.io.source import Source
from runai_model_streamer.pipeline.opening import Opened
from runai_model_streamer.pipeline.plan import PlannedFile


class Divided(NamedTuple):
    """What a load that is shared reads, and how."""

    files: Sequence[PlannedFile]
    sources: Sequence[Source]
    limit: int
    concurrency: int


class Sharing(Protocol):
    """Other processes that read parts of the same load; see `distributed.sharing.Sharing`."""

    @property
    def ranks_of_node(self) -> int:
        """Processes that share the memory limit."""
        ...

    def storage(self, config: StreamerConfig, credentials: S3Credentials | None) -> Storage:
        """What files are opened from."""
        ...

    def open_files(self, storage: Storage, paths: Sequence[str], concurrency: int) -> list[Opened]:
        """See `pipeline.opening.open_files`."""
        ...

    def divide(
        self, files: Sequence[PlannedFile], sources: Sequence[Source], limit: int | None, concurrency: int
    ) -> Divided:
        """What this process is to read of the load, and what to receive."""
        ...
