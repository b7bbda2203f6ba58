"""What an object's files are called, and what tells one object from another. No secret is part of either."""

import hashlib
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from runai_model_streamer.io.paths import without_query
from runai_model_streamer.io.secret import without_secrets

FOLDER: Final = "runai-streamer-cache-1"
"""Name of the folder in the user's one. The number is that of the format."""

DATA: Final = ".data"
JOURNAL: Final = ".index"
LOCKS: Final = "locks"

_SIGNING: Final = ("x-amz-", "x-goog-", "x-ms-")
_SIGNATURES: Final = frozenset(
    {
        *("awsaccesskeyid", "expires", "googleaccessid", "key-pair-id", "policy", "signature", "token"),
        *("se", "sig", "ske", "skoid", "sks", "skt", "sktid", "skv", "sp", "spr", "sr", "st", "sv", "sip", "si", "ss"),
        *("srt", "sdd", "access_token", "hdnts", "verify"),
    }
)
"""Parameters of a URL's query by which stores and CDNs sign it. They differ each time it is signed."""


class Name(NamedTuple):
    """Names of one version of an object."""

    url: str
    """What all versions of it share: hexadecimal digits."""
    version: str

    @property
    def stem(self) -> str:
        """Name of its files, without their ends."""
        return f"{self.url}-{self.version}"


def hash_of(identity: str) -> str:
    """Return what the files of all versions of an object begin with.

    A web URL's user, and what signs it, are left out. The rest of its query tells objects apart, so that it counts.

    Args:
        identity: the object's URL.
    """
    bare = without_query(identity)
    if bare != identity:
        query = parse_qsl(urlsplit(identity).query, keep_blank_values=True)
        kept = sorted((key, value) for key, value in query if not _signs(key.lower()))
        bare = f"{bare}?{urlencode(kept)}" if kept else bare
    return _digest(bare)


def name_of(identity: str, version: str, size: int, endpoint: str = "") -> Name:
    """Return the names of a version of an object. `endpoint` tells stores apart that have equal URLs."""
    return Name(hash_of(identity), _digest(f"{size} {version} {shown(endpoint)}".rstrip())[:16])


def shown(url: str) -> str:
    """Return an object's URL, or an endpoint, as the cache shows it: without user and query."""
    return without_secrets(without_query(url))


def _signs(key: str) -> bool:
    return key in _SIGNATURES or key.startswith(_SIGNING)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
