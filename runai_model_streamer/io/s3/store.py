"""Opens and lists objects of an S3-compatible store, with one client for a load.

`signing` leaves credentials, endpoints and redirects to botocore. A transport brings the body into the buffer. `errors`
explains failures. botocore is imported with the first request, not with this module.
"""

from dataclasses import replace

from typing_extensions import override

from runai_model_streamer.config import S3Config
from runai_model_streamer.io.http.retries import Judgement
from runai_model_streamer.io.listing import Entry, Wanted
from runai_model_streamer.io.objects.errors.frames import release_frames
from runai_model_streamer.io.objects.location import Location
from runai_model_streamer.io.objects.store import FailedRequest, ObjectStore
from runai_model_streamer.io.s3.access import Access, MakeAccess, make_access
from runai_model_streamer.io.s3.credentials import S3Credentials
from runai_model_streamer.io.s3.errors import translation
from runai_model_streamer.io.s3.errors.explanation import RequestContext
from runai_model_streamer.io.s3.errors.provenance import is_aws
from runai_model_streamer.io.s3.listing import list_objects
from runai_model_streamer.io.s3.remote import S3Object
from runai_model_streamer.io.setup_time import SetupClock


class S3Store(ObjectStore[Access]):
    """An `ObjectStore` of objects named s3://bucket/key. The key is used as written."""

    upload = " (upload it with --checksum-algorithm CRC64NVME, or in one part)"

    def __init__(
        self,
        config: S3Config,
        credentials: S3Credentials | None,
        connections: int,
        setup: SetupClock | None = None,
        make: MakeAccess = make_access,
    ) -> None:
        """`connections` is the maximum number of concurrent reads: one connection is kept for each.

        `make` makes the access. `setup` times imports, the search for credentials, and connecting.
        """
        clock = setup or SetupClock()
        super().__init__(lambda: make(config, credentials, connections, clock), config.max_retries, clock)
        self.config = config
        self._explicit = (credentials and credentials.endpoint) or config.endpoint

    @override
    def remote(self, path: str) -> S3Object:
        """Return the object of s3://bucket/key."""
        return S3Object(Location.of_object(path))

    @override
    def entries(self, path: str, wanted: Wanted, *, recursive: bool) -> list[Entry]:
        """List the wanted objects under s3://bucket/prefix; see `list_objects`."""
        return list_objects(self, path, wanted, recursive=recursive)

    @override
    def key_of(self, path: str) -> str:
        """Return the prefix of keys."""
        return Location.of_prefix(path).key

    @override
    def known_endpoint(self, path: str) -> str | None:
        """Return the endpoint of the settings. A profile may have one, too, which only boto3 finds."""
        return _endpoint(self._explicit) if self._explicit else None

    @override
    def endpoint(self, path: str) -> str:
        known = self.known_endpoint(path)
        if known is not None:
            return known
        found: list[str] = []
        flights = self.flights()
        try:
            self.retry(flights, path, None, lambda access, _: found.append(access.provenance.endpoint))
        finally:
            self.forget(flights)
        return _endpoint(found[-1])

    @override
    def judge(self, error: Exception) -> Judgement:
        release_frames(error)
        return translation.judge(error)

    @override
    def translated(self, error: Exception, failed: FailedRequest[Access]) -> Exception:
        bucket = Location.of_prefix(failed.path).bucket
        tries = failed.attempts
        at = RequestContext(
            failed.path, bucket, failed.span, tries.count, tries.seconds, self.config.timeout, failed.opening
        )
        access = failed.access
        if access is not None:
            at = replace(at, unsigned=access.unsigned, provenance=access.provenance, secrets=access.secrets)
        return translation.translated(error, at)


def _endpoint(url: str) -> str:
    """Return an endpoint as it tells stores apart. AWS is one store, whose buckets have one name in all regions."""
    return "" if is_aws(url) else url.rstrip("/")
