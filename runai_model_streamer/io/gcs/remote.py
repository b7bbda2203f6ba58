"""Makes the requests for an object of Google Cloud Storage: ranges of the generation that was opened, and checksums."""

import json
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

from typing_extensions import override

from runai_model_streamer.errors import ReadError
from runai_model_streamer.io.checksums import Checksum
from runai_model_streamer.io.gcs.access import GcsAccess
from runai_model_streamer.io.http.answers import Answer, AnswerError, Version, changed
from runai_model_streamer.io.http.flights import Flight
from runai_model_streamer.io.http.transport import Reply, SignedRequest
from runai_model_streamer.io.objects.location import Location
from runai_model_streamer.io.objects.requests import Refusal
from runai_model_streamer.io.secret import Link
from runai_model_streamer.io.web.digests import find
from runai_model_streamer.io.web.remote import Access, WebObject

_LARGEST: Final = 16 << 20
"""Maximum bytes of an answer of the JSON API. 1000 objects with the longest names take some 2 MB."""


class GcsObject(WebObject):
    """An object, read over the XML API, which serves ranges and refuses with a document.

    Args:
        endpoint: URL of the service.
        location: the bucket and the key.
    """

    def __init__(self, endpoint: str, location: Location) -> None:
        super().__init__(Link(f"{endpoint}/{quote(location.bucket)}/{quote(location.key)}"))
        self._about = f"/storage/v1/b/{quote(location.bucket)}/o/{quote(location.key, safe='')}"
        self._endpoint = endpoint
        self._generation = ""

    @override
    def opened(self, reply: Reply) -> bool:
        self._generation = reply.headers.get("x-goog-generation", "")
        return bool(self._generation)

    @override
    def sign(self, access: Access, refusals: Sequence[Refusal]) -> SignedRequest:
        request = super().sign(access, refusals)
        if not self._generation:
            return request
        pinned = {**request.headers, "x-goog-if-generation-match": self._generation}
        return SignedRequest(request.url, pinned, request.made)

    @override
    def checksum(self, access: Access, flight: Flight, version: Version) -> Checksum | None:
        about, answer = ask_api(access, flight, self._endpoint, self._about, {"fields": "generation,crc32c,md5Hash"})
        if self._generation and str(about.get("generation")) != self._generation:
            raise changed("the object is no longer the one that was opened (its generation differs)", answer)
        return find({"x-goog-hash": f"crc32c={about.get('crc32c', '')},md5={about.get('md5Hash', '')}"})


def ask_api(
    access: Access | GcsAccess, flight: Flight, endpoint: str, path: str, query: dict[str, str]
) -> tuple[dict[str, Any], Answer]:
    """Make one request to the JSON API.

    Raises:
        RefusedError: the service refuses.
        TransportError: there was no whole answer.
        AnswerError: the answer is not JSON.
    """
    text, answer = WebObject(Link(f"{endpoint}{path}?{urlencode(query)}")).ask_whole(access, flight, _LARGEST)
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        remedy = "Check STORAGE_EMULATOR_HOST, and any proxy in between."
        raise AnswerError(ReadError, "the answer is not one of the JSON API", remedy, answer)
    return document, answer
