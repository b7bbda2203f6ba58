"""Lists the files of a repository at one commit, from the Hub's API or from huggingface_hub's cache."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from runai_model_streamer.io.http.failures import Failure, TransportError
from runai_model_streamer.io.http.transport import Reply, SignedRequest
from runai_model_streamer.io.hub.access import HubAccess
from runai_model_streamer.io.hub.location import HubLocation
from runai_model_streamer.io.objects.requests import Refusal
from runai_model_streamer.io.secret import Link
from runai_model_streamer.io.web.refusal import RefusedError


class HubFile(NamedTuple):
    """A file, as the API describes it."""

    size: int
    identity: str
    """A text that changes with the content."""
    sha256: bytes | None
    """SHA-256 of the content; None for a small file in the git repository itself."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository at one commit."""

    commit: str
    files: Mapping[str, HubFile]
    """Path in the repository -> file."""


def fetch_snapshot(access: HubAccess, location: HubLocation, timeout: float) -> Snapshot:
    """Request the commit of a revision, and its files, from the API. One request.

    Raises:
        RefusedError: the Hub refuses.
        TransportError: there was no answer.
    """
    failure: Exception
    try:
        info = access.api().model_info(location.repo, revision=location.revision, files_metadata=True, timeout=timeout)
        return _snapshot(info)
    except Exception as error:
        failure = _converted(error, access)
        if failure is error:
            raise
    # Not inside the except block: Python would make the original error, which holds the request, the context.
    raise failure


def _snapshot(info: Any) -> Snapshot:
    files = {}
    for each in info.siblings or ():
        sha256 = getattr(each.lfs, "sha256", None)
        files[each.rfilename] = HubFile(
            int(each.size or 0), str(sha256 or each.blob_id), bytes.fromhex(sha256) if sha256 else None
        )
    return Snapshot(str(info.sha), files)


def _converted(error: Exception, access: HubAccess) -> Exception:
    """Convert an exception of huggingface_hub, or of its HTTP client, to one of ours. Return any other as it is."""
    response = getattr(error, "response", None)
    if response is not None:
        headers = {name.lower(): value for name, value in response.headers.items()}
        request = SignedRequest(Link(access.endpoint), access.headers(access.endpoint), 0.0)
        return RefusedError(Refusal(request, Reply(int(response.status_code), headers)), redirected=False)
    # The HTTP client is httpx, httpx2 or requests: that depends on the version of huggingface_hub.
    if not any(kind.__module__.partition(".")[0].startswith(("httpx", "requests")) for kind in type(error).__mro__):
        return error
    name = type(error).__name__
    failure = Failure.CLOSED
    if "Timeout" in name:
        failure = Failure.CONNECT_TIMEOUT if name.startswith("Connect") else Failure.STALLED
    elif name in ("ConnectError", "ConnectionError"):
        failure = Failure.CONNECT
    elif "Proxy" in name:
        failure = Failure.PROXY
    return TransportError(failure, str(error), access.endpoint)


def cached_snapshot(access: HubAccess, location: HubLocation) -> Snapshot | None:
    """Return the files of a revision in huggingface_hub's cache, without a request; None if it has none."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            location.repo, revision=location.revision, cache_dir=access.cache, local_files_only=True
        )
    except Exception:  # its class depends on the version of huggingface_hub
        return None
    files = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            if os.path.isfile(path):
                # The file is a link to a blob, whose name changes with the content.
                identity = os.path.basename(os.path.realpath(path))
                files[os.path.relpath(path, folder)] = HubFile(os.stat(path).st_size, identity, None)
    return Snapshot(os.path.basename(folder), files)
