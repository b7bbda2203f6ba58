"""Finds checksums of whole files in the headers of web servers."""

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Final

from runai_model_streamer.io.checksums import Checksum, cheapest

WANTED: Final[Mapping[str, str]] = {"Want-Repr-Digest": "sha-256=9, md5=1", "Want-Digest": "SHA-256, MD5;q=0.1"}
"""Headers that request a checksum: RFC 9530, and RFC 3230, which it replaces."""

_NAMES: Final = {"sha-256": "SHA256", "sha": "SHA1", "md5": "MD5", "crc32c": "CRC32C"}
"""Name of an algorithm in headers -> its name in `Checksum`."""

_HEX: Final = {"x-checksum-sha256": "SHA256", "x-checksum-sha1": "SHA1", "x-checksum-md5": "MD5"}
"""Headers of Artifactory and Nexus."""

_WIDTHS: Final = {"SHA256": 32, "SHA1": 20, "MD5": 16, "CRC32C": 4}


def find(headers: Mapping[str, str]) -> Checksum | None:
    """Return the checksum that is the cheapest to compute; None if the headers have none.

    It knows `Repr-Digest`, `Digest`, Google Cloud Storage's `x-goog-hash`, Azure's `x-ms-blob-content-md5`, and
    `X-Checksum-Sha256`. They cover the whole file, even in the answer to a range.
    """
    found = {
        algorithm: value
        for algorithm, value in _values(headers)
        if value is not None and len(value) == _WIDTHS[algorithm]
    }
    return cheapest(found)


def _values(headers: Mapping[str, str]) -> Iterator[tuple[str, bytes | None]]:
    for header in ("repr-digest", "digest", "x-goog-hash"):
        for part in headers.get(header, "").split(","):
            name, _, value = part.strip().partition("=")
            algorithm = _NAMES.get(name.lower())
            if algorithm is not None:
                # RFC 9530 puts colons around the value.
                yield algorithm, _base64(value.strip(":"))
    if "x-ms-blob-content-md5" in headers:
        yield "MD5", _base64(headers["x-ms-blob-content-md5"])
    for header, algorithm in _HEX.items():
        if header in headers:
            yield algorithm, _hex(headers[header])


def _base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


def _hex(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None
