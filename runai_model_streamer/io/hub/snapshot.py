"""The files of a repository at one commit, as the Hub's API, or huggingface_hub's cache, has them."""

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
    """Changes with the content."""
    sha256: bytes | None
    """Of the content; None for a small file in the git repository itself."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository at one commit."""

    commit: str
    files: Mapping[str, HubFile]
    """By their path in the repository."""


def fetch_snapshot(access: HubAccess, location: HubLocation, timeout: float) -> Snapshot:
    """Ask the API once for the commit of a revision and the files at it.

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
    # Not where theirs is still handled: Python would make it the context, and it holds the request.
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
    """What an exception of huggingface_hub, or of the HTTP client that it uses, says; itself if it says nothing."""
    response = getattr(error, "response", None)
    if response is not None:
        headers = {name.lower(): value for name, value in response.headers.items()}
        request = SignedRequest(Link(access.endpoint), access.headers(access.endpoint), 0.0)
        return RefusedError(Refusal(request, Reply(int(response.status_code), headers)), redirected=False)
    # httpx, httpx2 or requests, as its version will have it.
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
    """Return what huggingface_hub's cache has of a revision, without a request; None if it has nothing."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            location.repo, revision=location.revision, cache_dir=access.cache, local_files_only=True
        )
    except Exception:  # which of its errors it is, differs from version to version
        return None
    files = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            if os.path.isfile(path):
                # The blob that the file is a link to is named by its content.
                identity = os.path.basename(os.path.realpath(path))
                files[os.path.relpath(path, folder)] = HubFile(os.stat(path).st_size, identity, None)
    return Snapshot(os.path.basename(folder), files)
