"""Makes the requests for a file of a web server, and follows redirects."""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol
from urllib.parse import urljoin, urlsplit, urlunsplit

from typing_extensions import override

from runai_model_streamer.errors import ReadError
from runai_model_streamer.io.checksums import Checksum
from runai_model_streamer.io.http.answers import Answer, AnswerError, Version, changed
from runai_model_streamer.io.http.failures import RETRIED_STATUSES
from runai_model_streamer.io.http.flights import Flight
from runai_model_streamer.io.http.transport import Reply, SignedRequest, Transport
from runai_model_streamer.io.objects.requests import Refusal, Remote
from runai_model_streamer.io.secret import Link
from runai_model_streamer.io.setup_time import SetupClock
from runai_model_streamer.io.web.digests import WANTED, find
from runai_model_streamer.io.web.location import same_origin
from runai_model_streamer.io.web.refusal import RefusedError
from runai_model_streamer.ranges import ByteRange

_REDIRECTS: Final = (301, 302, 303, 307, 308)
_MOST_REDIRECTS: Final = 10

_PLAIN: Final = {"Accept-Encoding": "identity"}
"""Asks for the file as it is: offsets in a compressed one would differ."""


class Access(Protocol):
    """The transport and credentials of a request; see `WebAccess`."""

    @property
    def transport(self) -> Transport:
        """Moves the bytes."""
        ...

    @property
    def setup(self) -> SetupClock:
        """Times imports and connecting."""
        ...

    @property
    def secrets(self) -> Collection[str]:
        """Texts to redact in messages."""
        ...

    def headers(self, url: str) -> Mapping[str, str]:
        """Return the headers of a request to the host that the user named."""
        ...

    def close(self) -> None:
        """Close the connections. Idempotent."""
        ...


class WebObject(Remote[Access]):
    """A file of a web server, as a `Remote`.

    It follows redirects and keeps their target. If the target refuses, it requests the file's own URL again.
    Credentials go only to the host of `url`, with its port and scheme.

    Args:
        url: the file's URL.
    """

    def __init__(self, url: Link) -> None:
        self.url = url

    @override
    def sign(self, access: Access, refusals: Sequence[Refusal]) -> SignedRequest:
        """Return a request for the file's own URL, or for the target of the last answer's redirect.

        Raises:
            RefusedError: the server refuses.
            AnswerError: a redirect cannot be followed.
        """
        if not refusals:
            return self._request(access, self.url)
        request, reply = refusals[-1]
        if reply.status in _REDIRECTS:
            return self._request(access, _followed(refusals))
        redirected = request.url != self.url
        expired = redirected and 400 <= (reply.status or 0) < 500 and reply.status not in RETRIED_STATUSES
        if expired and len(refusals) == 1:
            # The target of an earlier redirect may have expired: ask for a new one, once.
            return self._request(access, self.url)
        raise RefusedError(refusals[-1], redirected=redirected)

    def _request(self, access: Access, url: Link) -> SignedRequest:
        own = access.headers(self.url) if same_origin(self.url, url) else {}
        return SignedRequest(url, {**_PLAIN, **own}, time.time())

    @override
    def opened(self, reply: Reply) -> bool:
        return False

    @override
    def is_beyond_end(self, error: Exception) -> bool:
        return isinstance(error, RefusedError) and error.status == 416

    @override
    def checksum(self, access: Access, flight: Flight, version: Version) -> Checksum | None:
        """Request the first byte. The answer may have a checksum of the whole file."""
        reply = self.ask(access, flight, ByteRange(0, 1), memoryview(bytearray(1)), WANTED)
        if version.etag not in (None, reply.headers.get("etag")):
            raise changed("the object is no longer the one that was opened (its ETag differs)", Answer.to(reply))
        return find(reply.headers)

    def ask_whole(self, access: Access, flight: Flight, most: int) -> tuple[bytes, Answer]:
        """Request all of it, once and without a range.

        Args:
            access: the transport and credentials.
            flight: cuts the request short.
            most: maximum number of bytes.

        Raises:
            TransportError: there was no whole answer, or it has more bytes.
            RefusedError, AnswerError: as `sign`.
        """
        text = bytearray(most)
        reply = self.ask(access, flight, ByteRange(0, most), memoryview(text), ranged=False)
        reply.check()
        return bytes(text[: reply.landed]), Answer.to(reply)

    def ask(
        self,
        access: Access,
        flight: Flight,
        span: ByteRange,
        view: memoryview,
        extra: Mapping[str, str] | None = None,
        *,
        ranged: bool = True,
    ) -> Reply:
        """Request a range of any version once, with extra headers; all there is unless `ranged`.

        Returns:
            A reply with a status below 300.

        Raises:
            TransportError: there was no answer.
            RefusedError, AnswerError: as `sign`.
        """
        refusals: list[Refusal] = []
        while True:
            request = self.sign(access, refusals)
            request = SignedRequest(request.url, {**request.headers, **(extra or {})}, request.made, ranged=ranged)
            reply = access.transport.get(request, span, None, view, flight)
            if reply.status is None:
                reply.check()
            elif reply.status < 300:
                return reply
            refusals.append(Refusal(request, reply))


def _followed(refusals: Sequence[Refusal]) -> Link:
    """Return the target of the last answer's redirect, without a user.

    Raises:
        AnswerError: it has no target, there were too many redirects, or it leads from https:// to http://.
    """
    request, reply = refusals[-1]
    answer = Answer.to(reply)
    if sum(refusal.reply.status in _REDIRECTS for refusal in refusals) > _MOST_REDIRECTS:
        remedy = "Open the URL in a browser, and give the one that it ends at."
        raise AnswerError(ReadError, f"more than {_MOST_REDIRECTS} redirects, one after another", remedy, answer)
    location = reply.headers.get("location", "")
    try:
        target = urlsplit(urljoin(request.url, location))
        usable = bool(location) and target.scheme in ("http", "https") and bool(target.hostname)
        _ = target.port
    except ValueError:
        usable = False
        target = urlsplit("")
    if not usable:
        remedy = "Open the URL in a browser, and give the one that it ends at."
        raise AnswerError(ReadError, "the server redirects to something that is not a web URL", remedy, answer)
    if target.scheme == "http" and request.url.startswith("https://"):
        remedy = "Ask the server's operator to redirect to https://; give the http:// URL if that way is safe."
        summary = f"the server redirects from https:// to http://{target.hostname}, where anybody may change the bytes"
        raise AnswerError(ReadError, summary, remedy, answer)
    return Link(urlunsplit(target._replace(netloc=target.netloc.rpartition("@")[2], fragment="")))
