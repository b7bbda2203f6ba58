"""A file of a web server: its requests, and the redirects that they follow."""

import time
from collections.abc import Mapping, Sequence
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
"""Bytes of a range count from the start of the file, not of what a server made of it."""


class Access(Protocol):
    """What a request is made with; see `WebAccess`."""

    @property
    def transport(self) -> Transport:
        """Moves the bytes."""
        ...

    @property
    def setup(self) -> SetupClock:
        """Times imports and connecting."""
        ...

    def headers(self, url: str) -> Mapping[str, str]:
        """Return the headers of a request to the host that the user named."""
        ...

    def close(self) -> None:
        """Close the connections. Idempotent."""
        ...


class WebObject(Remote[Access]):
    """A file of a web server.

    Redirects are followed. The place that they lead to is kept; when it refuses, the file's own URL is asked again.
    Credentials go to the host of `url` alone, with its port and scheme.

    Args:
        url: of the file.
    """

    def __init__(self, url: Link) -> None:
        self.url = url

    @override
    def sign(self, access: Access, refusals: Sequence[Refusal]) -> SignedRequest:
        """Return a request: for the file's own URL, or for where the last answer redirects to; see `Remote.sign`.

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
            # A link from an earlier redirect, which may have run out: ask for a new one, once.
            return self._request(access, self.url)
        raise RefusedError(refusals[-1], redirected=redirected)

    def _request(self, access: Access, url: Link) -> SignedRequest:
        own = access.headers(self.url) if same_origin(self.url, url) else {}
        return SignedRequest(url, {**_PLAIN, **own}, time.time())

    @override
    def is_beyond_end(self, error: Exception) -> bool:
        return isinstance(error, RefusedError) and error.status == 416

    @override
    def checksum(self, access: Access, flight: Flight, version: Version) -> Checksum | None:
        """Ask for the first byte, whose answer may have a digest of the whole file; see `Remote.checksum`."""
        reply = self.ask(access, flight, ByteRange(0, 1), memoryview(bytearray(1)), WANTED)
        if version.etag not in (None, reply.headers.get("etag")):
            raise changed("the object is no longer the one that was opened (its ETag differs)", Answer.to(reply))
        return find(reply.headers)

    def ask(
        self, access: Access, flight: Flight, span: ByteRange, view: memoryview, extra: Mapping[str, str] | None = None
    ) -> Reply:
        """Ask once for a range of whichever version is there, with more headers.

        Returns a reply with a status below 300.

        Raises:
            TransportError: there was no answer.
            RefusedError, AnswerError: as `sign`.
        """
        refusals: list[Refusal] = []
        while True:
            request = self.sign(access, refusals)
            request = SignedRequest(request.url, {**request.headers, **(extra or {})}, request.made)
            reply = access.transport.get(request, span, None, view, flight)
            if reply.status is None:
                reply.check()
            elif reply.status < 300:
                return reply
            refusals.append(Refusal(request, reply))


def _followed(refusals: Sequence[Refusal]) -> Link:
    """The URL that the last answer redirects to, without a user.

    Raises:
        AnswerError: there is none, there were too many, or it leads away from TLS.
    """
    request, reply = refusals[-1]
    answer = Answer.to(reply)
    if sum(refusal.reply.status in _REDIRECTS for refusal in refusals) > _MOST_REDIRECTS:
        remedy = "Open the URL in a browser, and give the one that it ends at."
        raise AnswerError(ReadError, f"more than {_MOST_REDIRECTS} redirects, one after the other", remedy, answer)
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
        raise AnswerError(ReadError, "the server redirects to what is no web URL", remedy, answer)
    if target.scheme == "http" and request.url.startswith("https://"):
        remedy = "Ask who runs the server to redirect to https://; give the http:// URL if that way is safe."
        summary = f"the server redirects from https:// to http://{target.hostname}, where anybody may change the bytes"
        raise AnswerError(ReadError, summary, remedy, answer)
    return Link(urlunsplit(target._replace(netloc=target.netloc.rpartition("@")[2], fragment="")))
