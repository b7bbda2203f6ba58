"""A failure of an object store as the user is told of it: the circumstances, and what it means."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from runai_model_streamer.errors import StreamerError
from runai_model_streamer.io.http.answers import Answer
from runai_model_streamer.io.s3.errors.provenance import UNKNOWN, Provenance
from runai_model_streamer.ranges import ByteRange


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What was being done when it went wrong."""

    path: str | None
    """None where no object or bucket was concerned."""
    bucket: str
    span: ByteRange | None
    """None where keys were listed."""
    attempts: int
    seconds: float
    timeout: float
    opening: bool = False
    """Nothing has come from this object yet."""
    unsigned: bool = False
    provenance: Provenance = UNKNOWN
    secrets: Collection[str] = field(default=(), repr=False)


class Meaning(NamedTuple):
    """What a failure is to the user."""

    kind: type[StreamerError]
    summary: str
    remedy: str
    answer: Answer | None = None
    quote: str = ""
    """The store's own words."""
    telling: bool = False
    """The foreign error's text may give a secret away."""
    local: bool = False
    """Nothing was asked of the store."""
