"""A Hub of the tests': its API, and redirects with signed links to a CDN on another host, as the real one answers."""

import hashlib
import itertools
import json
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

from tests.servers import Exchange, Fault, FaultServer, Request, refuse

COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"
OLD_COMMIT: Final = "89abcdef0123456789abcdef0123456789abcdef"
TOKEN: Final = "hf_PlantedToken0000000000000000000001"

_API: Final = re.compile(r"/api/models/([^/]+/[^/?]+)/revision/([^?]+)")
_RESOLVE: Final = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)")


def _json(document: object) -> Fault:
    def fault(exchange: Exchange) -> None:
        body = json.dumps(document).encode()
        exchange.head(200, {"Content-Type": "application/json", "Content-Length": str(len(body)), "ETag": None})
        exchange.send(body)

    return fault


def refused(status: int, code: str, message: str = "") -> Fault:
    """Refuse as the Hub does, with its code and words in headers."""
    return refuse(status, "", {"X-Error-Code": code or None, "X-Error-Message": message or None})


class Hub:
    """`org/model` at `COMMIT` (branch main) and `OLD_COMMIT` (tag v1), served by two hosts.

    Large files are redirected to the CDN, with links that serve until they run out; the others come from the Hub.
    `private` and `gated` repositories want the token; `files` is what the repository has.
    """

    def __init__(self, hub: FaultServer, cdn: FaultServer) -> None:
        self.hub, self.cdn = hub, cdn
        self.files: dict[str, bytes] = {}
        self.private = self.gated = False
        self.allowed = True
        """The token's user has access to the gated repository."""
        self._links = itertools.count()
        self._valid: set[int] = set()
        """Numbers of the links that serve."""
        hub.choose = self._answer
        cdn.choose = self._check

    @property
    def endpoint(self) -> str:
        """For HF_ENDPOINT."""
        return self.hub.endpoint

    def put(self, files: Mapping[str, bytes]) -> None:
        """Add files to the repository."""
        self.files |= files
        for name, data in files.items():
            self.cdn.put("blobs", hashlib.sha256(data).hexdigest(), data)
            self.hub.put("org", f"model/resolve/{COMMIT}/{name}", data)
            self.hub.put("org", f"model/resolve/{OLD_COMMIT}/{name}", data)

    def expire(self) -> None:
        """Let the links that were given out so far run out."""
        self._valid.clear()

    def asked(self, part: str) -> list[Request]:
        """Requests to the Hub with this text in their path."""
        return [request for request in self.hub.requests if part in request.target]

    def _answer(self, request: Request) -> Fault | None:
        authorization = request.headers.get("Authorization", request.headers.get("authorization"))
        if authorization not in (None, f"Bearer {TOKEN}"):
            return refused(401, "", "Invalid credentials in Authorization header")
        path = urllib.parse.unquote(request.target.partition("?")[0])
        if match := _API.fullmatch(path):
            return self._info(*match.groups(), authorized=authorization is not None)
        if match := _RESOLVE.fullmatch(path):
            return self._resolve(*match.groups(), authorized=authorization is not None)
        return refused(404, "")

    def _refusal(self, repo: str, *, authorized: bool) -> Fault | None:
        if repo != "org/model" or (self.private and not authorized):
            # Who may not know is told the same.
            return refused(401 if not authorized else 404, "RepoNotFound", "Repository not found")
        return None

    def _info(self, repo: str, revision: str, *, authorized: bool) -> Fault:
        commit = {"main": COMMIT, "v1": OLD_COMMIT, "refs/pr/1": COMMIT, COMMIT: COMMIT, OLD_COMMIT: OLD_COMMIT}
        if refusal := self._refusal(repo, authorized=authorized):
            return refusal
        if revision not in commit:
            return refused(404, "RevisionNotFound", "Invalid rev id")
        siblings: list[dict[str, Any]] = []
        for name, data in self.files.items():
            blob: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            if name.endswith(".safetensors"):
                blob["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(blob)
        return _json({"id": repo, "sha": commit[revision], "siblings": siblings})

    def _resolve(self, repo: str, commit: str, name: str, *, authorized: bool) -> Fault | None:
        if refusal := self._refusal(repo, authorized=authorized):
            return refusal
        if self.gated and not (authorized and self.allowed):
            return refused(403 if authorized else 401, "GatedRepo", "Access to model is restricted")
        if name not in self.files:
            return refused(404, "EntryNotFound", "Entry not found")
        if not name.endswith(".safetensors"):
            return None
        link = next(self._links)
        self._valid.add(link)
        digest = hashlib.sha256(self.files[name]).hexdigest()
        target = f"http://localhost:{self.cdn.port}/blobs/{digest}?Signature={link}"
        headers = {"Location": target, "X-Repo-Commit": commit, "X-Linked-Etag": f'"{digest}"'}
        return refuse(302, "", headers)

    def _check(self, request: Request) -> Fault | None:
        if any(TOKEN in value for value in (request.target, *request.headers.values())):
            return refuse(400, "TheTokenReachedTheCdn")
        link = request.target.partition("?Signature=")[2]
        return None if link.isdecimal() and int(link) in self._valid else refuse(403, "AccessDenied")
