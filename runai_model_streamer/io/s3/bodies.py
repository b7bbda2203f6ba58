"""Limits the size and duration of listings, which botocore would read without a limit."""

import re
from typing import Any, Final
from xml.etree import ElementTree

from runai_model_streamer.errors import ReadError, StorageUnreachableError
from runai_model_streamer.io.http.answers import Answer, AnswerError
from runai_model_streamer.io.http.failures import wrong_length
from runai_model_streamer.io.http.transport import SignedRequest, Window
from runai_model_streamer.io.s3.boto3_transport import read_some
from runai_model_streamer.io.s3.errors.intermediaries import CHECK_FRONT
from runai_model_streamer.io.s3.signing import Body, readable

_LONGEST: Final = 16 << 20
"""Maximum bytes of one page of a listing: 1000 keys of maximum length, with every letter escaped, take 10 MB."""

_BLOCK: Final = 256 << 10


def bound_listings(client: Any, timeout: float) -> None:
    """Make this client's listings fail if they are too slow (TransportError) or too long (AnswerError)."""

    def send(request: Any, **_: Any) -> Any:
        # botocore takes the answer that this handler returns, and sends nothing. Replace its request first: the repr of
        # that shows the headers.
        request = readable(request)
        return _send(client, request, timeout)

    client.meta.events.register("before-send.s3.ListObjectsV2", send)


def _send(client: Any, request: SignedRequest, timeout: float) -> Any:
    from botocore.awsrequest import AWSPreparedRequest, AWSResponse

    response: Any = AWSResponse
    headers: Any = dict(request.headers)
    session = client._endpoint.http_session  # noqa: SLF001 - there is no public way
    # `stream_output`: otherwise botocore reads the body before it returns.
    raw = session.send(AWSPreparedRequest("GET", request.url, headers, None, stream_output=True)).raw
    text = bytearray()
    window = Window(timeout)
    complete = False
    try:
        while block := read_some(raw, _BLOCK):
            text += block
            window.check(len(text))
            if len(text) > _LONGEST:
                raise _no_listing(f"it has more than {_LONGEST >> 20} MiB")
        missing = getattr(getattr(raw, "_fp", None), "length", None)
        if missing:
            raise wrong_length(len(text), len(text) + missing)
        raw.release_conn()
        complete = True
    finally:
        if not complete:
            raw.close()
    if raw.status < 300:
        _require_listing(bytes(text))
    return response(request.url, raw.status, raw.headers, Body(bytes(text)))


def _require_listing(text: bytes) -> None:
    """Raise AnswerError for a body that botocore would take for an empty listing or for a failure of the store."""
    if re.match(rb"\s*<(!doctype\s+)?html", text, re.IGNORECASE):
        summary = "something other than the store answered: the answer is not a listing but a web page"
        raise AnswerError(StorageUnreachableError, summary, CHECK_FRONT, Answer(200))
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise _no_listing(f"its XML is broken ({error})") from error
    kind = root.tag.rpartition("}")[2]
    # A store may notice its failure only after it began to answer.
    if kind not in ("ListBucketResult", "Error"):
        raise _no_listing(f"it is a <{kind}>")


def _no_listing(why: str) -> AnswerError:
    remedy = "Check the endpoint, and any proxy in between."
    return AnswerError(ReadError, f"the answer is not a listing: {why}", remedy, Answer(200))
