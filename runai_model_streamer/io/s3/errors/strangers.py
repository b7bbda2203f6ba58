"""Answers that no store gave: those of proxies, gateways, ingresses and web servers on the way to it."""

from collections.abc import Mapping
from typing import Final

from runai_model_streamer.errors import ConfigError, ReadError, StorageUnreachableError
from runai_model_streamer.io.http.answers import Answer
from runai_model_streamer.io.http.failures import RETRIED_STATUSES
from runai_model_streamer.io.http.proxies import proxy_for
from runai_model_streamer.io.s3.errors.meaning import Circumstances, Meaning
from runai_model_streamer.io.s3.errors.network import EASE, wants_tls

_EXPLAINED: Final = ("GetObject", "ListObjectsV2")
"""What stores refuse with a document; an answer to HEAD has none."""

_SIGNS: Final = ("x-amz-request-id", "x-amz-id-2", "x-amz-bucket-region")
"""Headers of answers that stores send, some of them without a document."""

_KNOWN_BY_STATUS: Final = (407, 412, 416)
"""Of a proxy by definition, or about what was asked, whoever says it."""

_FRONT: Final = "Look at what stands in front of the store (an ingress, a gateway, a login page), and at the endpoint."
_UNSIGNED: Final = (
    "The request was anonymous (RUNAI_STREAMER_S3_UNSIGNED=1): some stores (Swift) take that for another protocol. "
    "Unset it and give credentials."
)


def said_by_another(answer: Answer, headers: Mapping[str, str], operation: str, at: Circumstances) -> Meaning | None:
    """What a refusal without S3's error document means; None for one that is a store's.

    It says nothing of the object, of rights or of credentials.
    """
    status = answer.status
    if answer.code or operation not in _EXPLAINED or status in _KNOWN_BY_STATUS or _is_stores(headers):
        return None
    page = " but a web page" if "html" in headers.get("content-type", "") else ""
    names = [f"{name.title()}: {headers[name]}" for name in ("server", "via") if headers.get(name)]
    sender = f" ({', '.join(names)})" if names else ""
    summary = f"something else than the store answered{sender}: no error document of S3{page}"
    told = " ".join(filter(None, (_way(at), _UNSIGNED if at.unsigned else "")))
    if status in RETRIED_STATUSES:
        return Meaning(ReadError, f"{summary}; the store behind it is failing or overloaded", f"{told} {EASE}", answer)
    if status == 400 and not at.unsigned and (hint := wants_tls(at)):
        # What web servers say to plain HTTP where they expect TLS.
        told = f"{told} {hint}"
    if 300 <= (status or 0) < 400 and headers.get("location"):
        summary = f"{summary}; it redirects to {headers['location']}"
    return Meaning(StorageUnreachableError, summary, told, answer)


def _is_stores(headers: Mapping[str, str]) -> bool:
    return any(map(headers.get, _SIGNS)) and "html" not in headers.get("content-type", "")


def _way(at: Circumstances) -> str:
    """What to look at: the proxy, if there is one on the way, else what is at the endpoint."""
    endpoint = at.provenance.endpoint
    try:
        proxy = proxy_for(endpoint).url if endpoint else ""
    except ConfigError:
        proxy = ""
    if proxy:
        variable = f"{endpoint.partition(':')[0].upper()}_PROXY"
        return (
            f"The request went through the proxy of {variable}, {proxy}: if the store is not to be reached through it, "
            f"name {at.provenance.host.rpartition(':')[0] or at.provenance.host} in NO_PROXY. {_FRONT}"
        )
    return f"{at.provenance.endpoint_told()} {_FRONT}".lstrip()
