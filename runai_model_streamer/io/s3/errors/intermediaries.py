"""Explains answers that are not the store's: those of proxies, gateways, ingresses and web servers in front of it."""

from collections.abc import Mapping
from typing import Final

from runai_model_streamer.errors import ConfigError, ReadError, StorageUnreachableError
from runai_model_streamer.io.http.answers import Answer
from runai_model_streamer.io.http.failures import RETRIED_STATUSES
from runai_model_streamer.io.http.proxies import proxy_for
from runai_model_streamer.io.objects.errors.explanation import Explanation
from runai_model_streamer.io.objects.errors.network import EASE
from runai_model_streamer.io.s3.errors.explanation import RequestContext
from runai_model_streamer.io.s3.errors.network import wants_tls
from runai_model_streamer.io.secret import without_queries

_EXPLAINED: Final = ("GetObject", "ListObjectsV2")
"""Operations that stores refuse with an error document. An answer to HEAD has none."""

_SIGNS: Final = ("x-amz-request-id", "x-amz-id-2", "x-amz-bucket-region")
"""Headers that mark an answer as a store's, even without an error document."""

_KNOWN_BY_STATUS: Final = (407, 412, 416)
"""Statuses that mean the same from any sender: a proxy's login, or conditions of the request."""

CHECK_FRONT: Final = "Check what is in front of the store (an ingress, a gateway, a login page), and the endpoint."
_UNSIGNED: Final = (
    "The request was anonymous (RUNAI_STREAMER_S3_UNSIGNED=1): some stores (Swift) do not take that for S3. "
    "Unset it and give credentials."
)


def explain_intermediary(
    answer: Answer, headers: Mapping[str, str], operation: str, at: RequestContext
) -> Explanation | None:
    """Explain a refusal without S3's error document; None for a store's own refusal.

    Such a refusal says nothing about the object, permissions or credentials.
    """
    status = answer.status
    if answer.code or operation not in _EXPLAINED or status in _KNOWN_BY_STATUS or _is_stores(headers):
        return None
    page = " but a web page" if "html" in headers.get("content-type", "") else ""
    names = [f"{name.title()}: {headers[name]}" for name in ("server", "via") if headers.get(name)]
    sender = f" ({', '.join(names)})" if names else ""
    summary = f"something other than the store answered{sender}: the answer is not an error document of S3{page}"
    remedy = " ".join(filter(None, (_way(at), _UNSIGNED if at.unsigned else "")))
    if status in RETRIED_STATUSES:
        return Explanation(
            ReadError, f"{summary}; the store behind it is failing or overloaded", f"{remedy} {EASE}", answer
        )
    if status == 400 and not at.unsigned and (hint := wants_tls(at)):
        # Web servers answer so to plain HTTP where they expect TLS.
        remedy = f"{remedy} {hint}"
    if 300 <= (status or 0) < 400 and headers.get("location"):
        summary = f"{summary}; it redirects to {without_queries(headers['location'])}"
    return Explanation(StorageUnreachableError, summary, remedy, answer)


def _is_stores(headers: Mapping[str, str]) -> bool:
    return any(map(headers.get, _SIGNS)) and "html" not in headers.get("content-type", "")


def _way(at: RequestContext) -> str:
    """Say what to check: the proxy if the request went through one, else the endpoint."""
    endpoint = at.provenance.endpoint
    try:
        proxy = proxy_for(endpoint).url if endpoint else ""
    except ConfigError:
        proxy = ""
    if proxy:
        variable = f"{endpoint.partition(':')[0].upper()}_PROXY"
        return (
            f"The request went through the proxy of {variable}, {proxy}. If the store needs no proxy, name "
            f"{at.provenance.host.rpartition(':')[0] or at.provenance.host} in NO_PROXY. {CHECK_FRONT}"
        )
    return f"{at.provenance.endpoint_sentence()} {CHECK_FRONT}".lstrip()
