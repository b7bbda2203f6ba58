"""Google Cloud Storage of the tests': its XML API for objects, its JSON API for the rest, and a server of tokens."""

import base64
import hashlib
import json
import re
import urllib.parse
from pathlib import Path
from typing import Any, Final

from tests.io.tokens import ProviderServer, TokenRequest
from tests.servers import Exchange, Fault, FaultServer, Request, refuse

TOKEN: Final = "ya29.PlantedToken000000000000000000000001"

_LIST: Final = re.compile(r"/storage/v1/b/([^/]+)/o")
_ABOUT: Final = re.compile(r"/storage/v1/b/([^/]+)/o/(.+)")


def _json(document: object) -> Fault:
    def fault(exchange: Exchange) -> None:
        body = json.dumps(document).encode()
        exchange.head(200, {"Content-Type": "application/json", "Content-Length": str(len(body)), "ETag": None})
        exchange.send(body)

    return fault


def api_error(status: int, message: str) -> Fault:
    """Refuse as the JSON API does."""

    def fault(exchange: Exchange) -> None:
        body = json.dumps({"error": {"code": status, "message": message}}).encode()
        exchange.head(status, {"Content-Type": "application/json", "Content-Length": str(len(body)), "ETag": None})
        exchange.send(body)

    return fault


class Gcs:
    """The bucket `models`. With `token`, requests need it; without, they may be anonymous."""

    def __init__(self, server: FaultServer) -> None:
        self.server = server
        self.token: str | None = None
        self.allowed = True
        """The account may read the bucket."""
        self.page_size = 1000
        self.crc32c: dict[str, str] = {}
        """Key -> base64; others have their MD5 alone, as where nobody has awscrt."""
        self.objects: dict[str, tuple[bytes, int]] = {}
        """Key -> bytes and generation."""
        server.choose = self.answer

    def put(self, key: str, data: bytes) -> None:
        """Store an object, or a new generation of it."""
        generation = self.objects.get(key, (b"", 1000))[1] + 1
        self.objects[key] = data, generation
        self.server.put("models", key, data)

    def answer(self, request: Request) -> Fault | None:
        """For `FaultServer.choose`."""
        path, _, text = request.target.partition("?")
        query = {name: values[0] for name, values in urllib.parse.parse_qs(text).items()}
        path = urllib.parse.unquote(path)
        api = path.startswith("/storage/")
        refused = self._refusal(request, path, api=api)
        if refused is not None:
            return refused
        if match := _LIST.fullmatch(path):
            return _json(self._page(query))
        if match := _ABOUT.fullmatch(path):
            found = self.objects.get(match[2])
            return (
                api_error(404, "No such object")
                if found is None
                else _json(_about(match[2], *found) | self._crc(match[2]))
            )
        key = path.removeprefix("/models/")
        if key not in self.objects:
            return refuse(404, "NoSuchKey")
        return self._media(request, key)

    def _refusal(self, request: Request, path: str, *, api: bool) -> Fault | None:
        sent = request.headers.get("Authorization")
        if self.token is not None and sent != f"Bearer {self.token}":
            words = (
                "Anonymous caller does not have storage.objects.get access" if sent is None else "Invalid Credentials"
            )
            return api_error(401, words) if api else refuse(401, "AuthenticationRequired")
        if not self.allowed:
            return api_error(403, "no storage.objects.list access") if api else refuse(403, "AccessDenied")
        bucket = path.split("/")[4 if api else 1]
        if bucket != "models":
            return api_error(404, "The specified bucket does not exist.") if api else refuse(404, "NoSuchBucket")
        return None

    def _crc(self, key: str) -> dict[str, str]:
        return {"crc32c": self.crc32c[key]} if key in self.crc32c else {}

    def _media(self, request: Request, key: str) -> Fault | None:
        generation = str(self.objects[key][1])
        wanted = request.headers.get("x-goog-if-generation-match", generation)

        def serve(exchange: Exchange) -> None:
            if request.span is not None and request.span[0] >= len(exchange.stored.data):
                exchange.refuse(416, "InvalidRange")
                return
            exchange.head(headers={"x-goog-generation": generation})
            exchange.send(exchange.asked)

        if wanted != generation or request.headers.get("If-Match") not in (None, self.server.etag("models", key)):
            return refuse(412, "PreconditionFailed")
        return serve

    def _page(self, query: dict[str, str]) -> dict[str, Any]:
        prefix, delimiter, after = (query.get(name, "") for name in ("prefix", "delimiter", "pageToken"))
        items, prefixes = [], set()
        for key in sorted(self.objects):
            rest = key.removeprefix(prefix)
            if not key.startswith(prefix):
                continue
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.partition(delimiter)[0] + delimiter)
            elif key > after:
                items.append(_about(key, *self.objects[key]))
        page: dict[str, Any] = {"items": items[: self.page_size], "prefixes": sorted(prefixes)}
        if len(items) > self.page_size:
            page["nextPageToken"] = items[self.page_size - 1]["name"]
        return page


def _about(key: str, data: bytes, generation: int) -> dict[str, Any]:
    return {
        "name": key,
        "size": str(len(data)),
        "generation": str(generation),
        "updated": "2026-01-02T03:04:05.678Z",
        "etag": f"etag{generation}",
        "md5Hash": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode(),
    }


class TokenServer(ProviderServer):
    """Gives out tokens, as https://oauth2.googleapis.com/token does. `tokens` is used up from its left."""

    def __init__(self) -> None:
        super().__init__(self._token)
        self.tokens = [TOKEN]
        self.lifetime = 3600
        self.url += "/token"

    def _token(self, _: TokenRequest) -> tuple[int, object]:
        token = self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]
        if not token:
            return 400, {"error": "invalid_grant"}
        return 200, {"access_token": token, "expires_in": self.lifetime}


def service_account(folder: Path, token_url: str) -> Path:
    """A file with the key of a service account."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "project_id": "project",
        "private_key_id": "1",
        "private_key": key.decode(),
        "client_email": "reader@project.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": token_url,
    }
    path = folder / "account.json"
    path.write_text(json.dumps(account))
    return path
