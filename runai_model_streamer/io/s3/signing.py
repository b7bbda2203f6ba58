"""Lets botocore sign requests without sending them, and parse answers that a transport received.

botocore resolves the endpoint, signs, follows a bucket to its region, and parses a store's errors. That takes 2 ms of
Python for each call, which is most of the time of a range over a fast network. So it is done once for an object, and
again only for an answer that is not the range.
"""

import io
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from runai_model_streamer.io.http.failures import Failure, TransportError
from runai_model_streamer.io.http.transport import Reply, SignedRequest
from runai_model_streamer.io.secret import Secret, Url

_current = threading.local()


class _Signing:
    """One call of botocore's: the answers to give it, and the request that it made after the last of them."""

    def __init__(self, refused: Sequence[Reply]) -> None:
        self.answers = list(refused)
        self.request = SignedRequest(Url(), {}, 0.0)


class Body(io.BytesIO):
    """A body with the methods that botocore uses of urllib3's."""

    def stream(self) -> Iterator[bytes]:
        """Yield the whole body at once."""
        yield self.read()


def keep_requests(client: Any) -> None:
    """Let `sign` capture the requests of this client. All other calls are sent as usual."""
    client.meta.events.register("before-send.s3.GetObject", _keep)


def sign(client: Any, bucket: str, key: str, refused: Sequence[Reply] = ()) -> SignedRequest:
    """Sign a GET of an object.

    `refused` has the store's answers to earlier requests for it. If they name another region, sign for that.

    Raises:
        ClientError: botocore's, for the last answer, if another request would not help.
        TransportError: the credentials cannot be put into a header.
        Exception: botocore's others, for credentials and settings that it cannot use.
    """
    signing = _current.signing = _Signing(refused)
    try:
        client.get_object(Bucket=bucket, Key=key)["Body"].close()
    finally:
        _current.signing = None
    made = replace(signing.request, made=time.time())
    if any(character in value for value in made.headers.values() for character in "\r\n\0"):
        # Do not quote the value: it is a key or a token.
        raise TransportError(Failure.UNSENDABLE)
    return made


def _keep(request: Any, **_: Any) -> Any:
    # Replace botocore's request first: its repr shows the headers.
    request = readable(request)
    from botocore import awsrequest

    response: Any = awsrequest.AWSResponse

    signing: _Signing | None = getattr(_current, "signing", None)
    if signing is None:
        return None
    if signing.answers:
        reply = signing.answers.pop(0)
        return response(request.url, reply.status, reply.headers, Body(reply.text))
    signing.request = request
    return response(request.url, 200, {"content-length": "0"}, Body())


def readable(request: Any) -> SignedRequest:
    """Convert botocore's request to one whose repr hides signature and tokens."""
    return SignedRequest(Url(request.url), {name: _text(value) for name, value in request.headers.items()}, 0.0)


def _text(value: str | bytes) -> Secret:
    return Secret(value if isinstance(value, str) else value.decode("utf-8"))
