"""Makes the range requests for one object: signed, in its bucket's region, for the version that was opened."""

import logging

from runai_model_streamer.io.http.answers import Answer, Version
from runai_model_streamer.io.http.flights import Flight
from runai_model_streamer.io.http.transport import Reply, SignedRequest
from runai_model_streamer.io.s3.access import Access
from runai_model_streamer.io.s3.location import Location
from runai_model_streamer.io.s3.signing import sign
from runai_model_streamer.ranges import ByteRange

_log = logging.getLogger(__name__)

_CONDITION_REFUSED = (412, 501)
"""The object has changed, or the store does not implement If-Match, or does it wrong."""


class ObjectRequests:
    """Requests ranges of an object. Thread safe.

    Args:
        path: the object's URL, for log lines.
        location: its bucket and key.
        version: the version to ask for; an empty one accepts any.
    """

    def __init__(self, path: str, location: Location, version: Version) -> None:
        self._path = path
        self._location = location
        self._signed: tuple[Access, SignedRequest] | None = None
        self._if_match_works = True
        self.version = version

    def ask(self, access: Access, flight: Flight, span: ByteRange, view: memoryview) -> Reply:
        """Request a range. Request it again if the first answer names the bucket's region or refuses If-Match.

        Returns:
            A reply with a status below 300.

        Raises:
            TransportError: there was no answer.
            ClientError: botocore's, for the store's refusal.
        """
        condition = self._condition()
        request = self._request(access)
        refused: list[Reply] = []
        while True:
            reply = access.transport.get(request, span, condition, view, flight)
            if condition is not None and reply.status in _CONDITION_REFUSED:
                reply = self._look_again(access, flight, request, span, view, reply)
            if reply.status is None:
                reply.check()
            elif reply.status < 300:
                return reply
            refused.append(reply)
            request = sign(access.client, *self._location, refused)
            self._signed = access, request

    def _look_again(
        self, access: Access, flight: Flight, request: SignedRequest, span: ByteRange, view: memoryview, refusal: Reply
    ) -> Reply:
        """Repeat a refused request without If-Match. Return its answer, or the refusal if the object did change.

        Some stores refuse the very ETag that they have just sent: that of an object in parts, or in quotes.
        """
        reply = access.transport.get(request, span, None, view, flight)
        if reply.status is None or reply.status >= 300:
            return reply
        if reply.headers.get("etag") != self.version.etag:
            return refusal
        if self._if_match_works:
            self._if_match_works = False
            _log.info(
                "%s: the store's If-Match does not work (%s): the ETag of each answer is compared instead",
                self._path, Answer.to(refusal),
            )  # fmt: skip
        return reply

    def _condition(self) -> str | None:
        """Return the ETag to send; None for a weak one, which never matches."""
        etag = self.version.etag
        return etag if etag and self._if_match_works and not etag.startswith("W/") else None

    def _request(self, access: Access) -> SignedRequest:
        held = self._signed
        if held is not None and held[0] is access and held[1].fresh:
            return held[1]
        # The first signature asks a provider for a role's credentials.
        with access.setup.once("credentials"):
            request = sign(access.client, *self._location)
        self._signed = access, request
        return request
