"""Makes the range requests for one object: signed, following redirects, for the version that was opened."""

import logging
from collections.abc import Sequence
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from runai_model_streamer.io.checksums import Checksum
from runai_model_streamer.io.http.answers import Answer, Version
from runai_model_streamer.io.http.flights import Flight
from runai_model_streamer.io.http.transport import Reply, SignedRequest, Transport
from runai_model_streamer.io.setup_time import SetupClock
from runai_model_streamer.ranges import ByteRange

_log = logging.getLogger(__name__)

_CONDITION_REFUSED: Final = (412, 501)
"""The object has changed, or the store does not implement If-Match, or does it wrong."""


class Access(Protocol):
    """The transport and credentials for requests to a store."""

    @property
    def transport(self) -> Transport:
        """The transport, which moves the bytes."""
        ...

    @property
    def setup(self) -> SetupClock:
        """The clock that times the search for credentials."""
        ...

    def close(self) -> None:
        """Close the connections. Idempotent."""
        ...


A = TypeVar("A", bound=Access)
A_co = TypeVar("A_co", bound=Access, covariant=True)
A_contra = TypeVar("A_contra", bound=Access, contravariant=True)


class Refusal(NamedTuple):
    """A request, and an answer without the range: a refusal or a redirect."""

    request: SignedRequest
    reply: Reply


class Remote(Protocol[A_contra]):
    """One object of a store: signs requests for it, and knows its store's errors. Thread safe."""

    def sign(self, access: A_contra, refusals: Sequence[Refusal]) -> SignedRequest:
        """Return a signed request for the object.

        `refusals` are the answers to earlier requests of the same attempt. After a redirect, for example, the new
        request goes to its target.

        Raises:
            Exception: the store's, for the last answer, if another request would not help.
        """
        ...

    def opened(self, reply: Reply) -> bool:
        """Note the answer with which the object was opened. Return whether later requests are to be signed again."""
        ...

    def is_beyond_end(self, error: Exception) -> bool:
        """Return whether the store says that the object ends before the range begins."""
        ...

    def checksum(self, access: A_contra, flight: Flight, version: Version) -> Checksum | None:
        """Request the store's checksum of this version of the object, once. Return None if it has none of use.

        Raises:
            Exception: as `sign`, and `AnswerError` if the object has changed.
        """
        ...


class ObjectRequests(Generic[A]):
    """Requests ranges of an object. Thread safe.

    Args:
        path: the object's URL, for log lines.
        remote: signs the requests.
        version: the version to ask for; an empty one accepts any.
    """

    def __init__(self, path: str, remote: Remote[A], version: Version) -> None:
        self._path = path
        self._remote = remote
        self._signed: tuple[A, SignedRequest] | None = None
        self.version = version
        self._condition = _condition(version)

    def opened(self, version: Version, reply: Reply) -> None:
        """Ask for this version from now on, that of the answer with which the object was opened."""
        self.version, self._condition = version, _condition(version)
        if self._remote.opened(reply):
            self._signed = None

    def ask(self, access: A, flight: Flight, span: ByteRange, view: memoryview) -> Reply:
        """Request a range. Request it again if an answer names another place, or refuses If-Match.

        Returns:
            A reply with a status below 300.

        Raises:
            TransportError: there was no answer.
            Exception: raised by `Remote.sign`, for the store's refusal.
        """
        condition = self._condition
        request = self._request(access)
        refusals: list[Refusal] = []
        while True:
            reply = access.transport.get(request, span, condition, view, flight)
            if condition is not None and reply.status in _CONDITION_REFUSED:
                reply = self._look_again(access, flight, request, span, view, reply)
            if reply.status is None:
                reply.check()
            elif reply.status < 300:
                return reply
            refusals.append(Refusal(request, reply))
            request = self._remote.sign(access, refusals)
            self._signed = access, request

    def _look_again(
        self, access: A, flight: Flight, request: SignedRequest, span: ByteRange, view: memoryview, refusal: Reply
    ) -> Reply:
        """Repeat a refused request without If-Match. Return its answer, or the refusal if the object did change.

        Some stores refuse the very ETag that they have just sent: that of an object in parts, or in quotes.
        """
        reply = access.transport.get(request, span, None, view, flight)
        if reply.status is None or reply.status >= 300:
            return reply
        if reply.headers.get("etag") != self.version.etag:
            return refusal
        if self._condition is not None:
            self._condition = None
            _log.info(
                "%s: the store's If-Match does not work (%s): the ETag of each answer is compared instead",
                self._path, Answer.to(refusal),
            )  # fmt: skip
        return reply

    def _request(self, access: A) -> SignedRequest:
        held = self._signed
        if held is not None and held[0] is access and held[1].fresh:
            return held[1]
        # The first signature may ask a credential provider.
        with access.setup.once("credentials"):
            request = self._remote.sign(access, ())
        self._signed = access, request
        return request


def _condition(version: Version) -> str | None:
    """Return the ETag to send; None for a weak one, which never matches."""
    etag = version.etag
    return etag if etag and not etag.startswith("W/") else None
