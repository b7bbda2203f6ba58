"""Signs requests with an account key: Azure's scheme `SharedKey`, which covers the range and If-Match."""

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from typing_extensions import override

from runai_model_streamer.io.azure.account import Account
from runai_model_streamer.io.http.transport import Cancellation, Reply, SignedRequest, Transport, sent_headers
from runai_model_streamer.io.secret import Secret
from runai_model_streamer.ranges import ByteRange

_SIGNED: Final = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)
"""The headers that are signed, besides those that begin with x-ms-, in this order."""


class SigningTransport(Transport):
    """A transport that signs each request to an account, once its range is known.

    Args:
        inner: makes the requests.
        account: has a key.
        now: returns the date of a request, as HTTP writes it.
    """

    def __init__(
        self, inner: Transport, account: Account, now: Callable[[], str] = lambda: formatdate(usegmt=True)
    ) -> None:
        self.name = inner.name
        self._inner = inner
        self._account = account
        self._now = now

    @override
    def get(
        self, request: SignedRequest, span: ByteRange, etag: str | None, view: memoryview, cancellation: Cancellation
    ) -> Reply:
        if self._account.owns(request.url):
            headers = {**request.headers, "x-ms-date": self._now()}
            request = SignedRequest(request.url, headers, request.made, ranged=request.ranged)
            signed = authorization(self._account, request.url, sent_headers(request, span, etag))
            request = SignedRequest(
                request.url, {**headers, "Authorization": signed}, request.made, ranged=request.ranged
            )
        return self._inner.get(request, span, etag, view, cancellation)

    @override
    def close(self) -> None:
        self._inner.close()


def authorization(account: Account, url: str, headers: Mapping[str, str]) -> Secret:
    """Return the header `Authorization` of a GET with these headers."""
    text = string_to_sign(account.name, url, headers)
    digest = hmac.digest(base64.b64decode(account.key), text.encode(), hashlib.sha256)
    return Secret(f"SharedKey {account.name}:{base64.b64encode(digest).decode()}")


def string_to_sign(account: str, url: str, headers: Mapping[str, str]) -> str:
    """Return the text that the signature of a GET covers."""
    sent = {name.lower(): value.strip() for name, value in headers.items()}
    parts = urlsplit(url)
    resource = f"/{account}{parts.path}"
    query = sorted((name.lower(), value) for name, value in parse_qsl(parts.query, keep_blank_values=True))
    lines = [
        "GET",
        *(sent.get(name, "") for name in _SIGNED),
        *(f"{name}:{sent[name]}" for name in sorted(sent) if name.startswith("x-ms-")),
        resource,
        *(f"{name}:{value}" for name, value in query),
    ]
    return "\n".join(lines)
