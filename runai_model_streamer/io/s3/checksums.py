"""What a store has on record of an object's content.

Asked for with HEAD: the answers to ranges leave checksums of the whole object out, or clients would hold them against
the range.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final

from runai_model_streamer.io.checksums import ALGORITHMS, Checksum
from runai_model_streamer.io.http.answers import changed
from runai_model_streamer.io.s3.errors.store import answer_in
from runai_model_streamer.io.s3.location import Location

_MD5_ETAG: Final = re.compile(r'"([0-9a-f]{32})"')
_PARTS_ETAG: Final = re.compile(r'-\d+"?$')

_PLAIN: Final = (None, "", "AES256")
"""Server-side encryption under which an ETag is the MD5 of what was uploaded; under KMS, and with the customer's own
key, it is not."""


def ask(client: Any, location: Location, etag: str | None) -> Checksum | None:
    """The store's checksum of the object with this ETag; see `find`.

    Raises:
        AnswerError: the object has another ETag by now.
        Exception: botocore's.
    """
    response = client.head_object(Bucket=location.bucket, Key=location.key, ChecksumMode="ENABLED")
    # Compared here, since not every store does If-Match, or rightly.
    if etag is not None and response.get("ETag", etag) != etag:
        raise changed("the object is no longer the one that was opened (its ETag differs)", answer_in(response))
    return find(response)


def find(response: Mapping[str, Any]) -> Checksum | None:
    """The cheapest checksum of the whole object in botocore's form of an answer to HEAD; None where there is none.

    That of an object uploaded in parts may be one of its parts' checksums (COMPOSITE, and every such ETag), which
    says nothing without the parts' sizes. A store that does not say which it is, is believed only for an object whose
    ETag is not that of parts.
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
    # Stores that send no type mark the checksum of parts as in an ETag: value-number.
    try:
        return base64.b64decode(text, validate=True) or None
    except binascii.Error:
        return None
