"""The data from which an error message about object storage is made."""

from collections.abc import Collection
from dataclasses import dataclass, field

from runai_model_streamer.io.s3.errors.provenance import UNKNOWN, Provenance
from runai_model_streamer.ranges import ByteRange


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The request that failed, and the settings and credentials it was made with."""

    path: str | None
    """The object or prefix; None if the request concerned neither."""
    bucket: str
    span: ByteRange | None
    """The range; None for a listing."""
    attempts: int
    """Attempts so far, the first included."""
    seconds: float
    """Time of all attempts."""
    timeout: float
    """RUNAI_STREAMER_S3_TIMEOUT, in seconds."""
    opening: bool = False
    """The store has not answered any request yet."""
    unsigned: bool = False
    provenance: Provenance = UNKNOWN
    secrets: Collection[str] = field(default=(), repr=False)
    """Texts to redact."""
