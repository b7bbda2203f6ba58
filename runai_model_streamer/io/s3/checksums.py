"""Asks a store for the checksum of an object.

It takes a HEAD request. The answers to ranges omit the whole object's checksum, since clients would compare it with the
range.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final

from runai_model_streamer.io.checksums import ALGORITHMS, Checksum
from runai_model_streamer.io.http.answers import changed
from runai_model_streamer.io.objects.location import Location
from runai_model_streamer.io.s3.errors.store import answer_in

_MD5_ETAG: Final = re.compile(r'"([0-9a-f]{32})"')
_PARTS_ETAG: Final = re.compile(r'-\d+"?$')

_PLAIN: Final = (None, "", "AES256")
"""Kinds of server-side encryption whose ETag is the MD5 of the upload. With KMS or the customer's own key it is not."""


def ask(client: Any, location: Location, etag: str | None) -> Checksum | None:
    """Request the store's checksum of the object with this ETag; see `find`.

    Raises:
        AnswerError: the object's ETag has changed.
        Exception: botocore's.
    """
    response = client.head_object(Bucket=location.bucket, Key=location.key, ChecksumMode="ENABLED")
    # Compared here, because not every store implements If-Match, and some do it wrong.
    if etag is not None and response.get("ETag", etag) != etag:
        raise changed("the object is no longer the one that was opened (its ETag differs)", answer_in(response))
    return find(response)


def find(response: Mapping[str, Any]) -> Checksum | None:
    """Return the cheapest checksum of the whole object from botocore's answer to HEAD; None if there is none.

    An object uploaded in parts may have a checksum of its parts' checksums (COMPOSITE, and every such ETag). That is
    useless without the parts' sizes. If the store does not name the type, its checksum counts only if the ETag is not
    one of parts.
    """
    etag = response.get("ETag", "")
    if response.get("ChecksumType", "COMPOSITE" if _PARTS_ETAG.search(etag) else "FULL_OBJECT") == "FULL_OBJECT":
        for algorithm in ALGORITHMS:
            value = _decoded(response.get(f"Checksum{algorithm}", ""))
            if value is not None:
                return Checksum(algorithm, value)
    match = _MD5_ETAG.fullmatch(etag)
    encrypted = response.get("ServerSideEncryption") not in _PLAIN or response.get("SSECustomerAlgorithm")
    return Checksum("MD5", bytes.fromhex(match[1])) if match and not encrypted else None


def _decoded(text: str) -> bytes | None:
    # Stores that send no type mark a checksum of parts like an ETag of parts: value-number.
    try:
        return base64.b64decode(text, validate=True) or None
    except binascii.Error:
        return None
