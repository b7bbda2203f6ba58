"""Makes the requests for an object of S3: botocore signs them, and parses refusals."""

from collections.abc import Sequence

from typing_extensions import override

from runai_model_streamer.io.checksums import Checksum
from runai_model_streamer.io.http.answers import Version
from runai_model_streamer.io.http.flights import Flight
from runai_model_streamer.io.http.transport import Reply, SignedRequest
from runai_model_streamer.io.objects.location import Location
from runai_model_streamer.io.objects.requests import Refusal, Remote
from runai_model_streamer.io.s3 import checksums
from runai_model_streamer.io.s3.access import Access
from runai_model_streamer.io.s3.errors import translation
from runai_model_streamer.io.s3.signing import sign


class S3Object(Remote[Access]):
    """An object of S3, as its store knows it.

    Args:
        location: its bucket and key.
    """

    def __init__(self, location: Location) -> None:
        self._location = location

    @override
    def sign(self, access: Access, refusals: Sequence[Refusal]) -> SignedRequest:
        """Sign a request: for another region, where a refusal names one."""
        return sign(access.client, *self._location, [refusal.reply for refusal in refusals])

    @override
    def opened(self, reply: Reply) -> bool:
        return False

    @override
    def is_beyond_end(self, error: Exception) -> bool:
        return translation.is_beyond_end(error)

    @override
    def checksum(self, access: Access, flight: Flight, version: Version) -> Checksum | None:
        return checksums.ask(access.client, self._location, version.etag)
